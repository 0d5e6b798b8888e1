"""Which paths may name a file in a store, and how URLs and paths are joined and shown.

Paths are relative, in POSIX form, the same on every kind of store. What is refused here could leave the store's
prefix, cannot be created on some kind of store, or would show other text than it means. Knows no store.
"""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from urllib.parse import urlsplit

#: a path of this many characters or more is refused (object stores end at 1,024 bytes, prefix included)
MAX_PATH_CHARS = 300
#: file systems end a name here
MAX_NAME_BYTES = 255
#: names of files that are still being written
TEMPORARY = ".tmp-"
#: top folders of ``publish.url`` that wanflow writes itself
RESERVED = (".wanflow", "catalog")

_BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_DEVICES = frozenset(
    {"con", "prn", "aux", "nul", *(f"{name}{n}" for name in ("com", "lpt") for n in "123456789")}
)
_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+://")
#: what most paths look like, in which nothing can be wrong; told at once, for there may be a million of them
_PLAIN = re.compile(
    rf"(?=.{{1,{MAX_NAME_BYTES}}}\Z)(?:PART/)*PART".replace(
        "PART", rf"(?!(?:{'|'.join(sorted(_DEVICES))})(?:[./]|\Z))[a-z0-9_-](?:[a-z0-9_.-]*[a-z0-9_-])?"
    ),
    re.ASCII | re.IGNORECASE,
)


def check_path(path: str) -> None:
    """Refuse a path that could leave its store or cannot be kept; ValueError with the reason."""
    reason = _wrong(path)
    if reason:
        shown = path if len(path) <= 80 else path[:77] + "..."
        raise ValueError(f"unsafe path {shown!r}: {reason}")


def check_publish_path(path: str) -> None:
    """:func:`check_path`, and not in a folder of ``publish.url`` that wanflow writes itself; ValueError."""
    check_path(path)
    top = path.split("/")[0]
    if top.lower() in RESERVED:
        raise ValueError(f"unsafe path {path!r}: {top}/ is wanflow's own folder; publish under another one")


def _wrong(path: str) -> str:
    return "" if _PLAIN.fullmatch(path) else _looked_into(path)


def _looked_into(path: str) -> str:
    if not path or not path.strip():
        return "it is empty"
    if len(path) >= MAX_PATH_CHARS:
        return f"it has {len(path)} characters; fewer than {MAX_PATH_CHARS} are allowed"
    if char := control_character(path):
        return f"it contains the control character U+{ord(char):04X}"
    if "\\" in path:
        return "it contains a backslash; separate folders with /"
    if path.startswith("/"):
        return "it is absolute; paths are relative to the store"
    if _SCHEME.match(path):
        return "it is a URL; paths are relative to the store"
    for name in path.split("/"):
        if not name:
            return "it has an empty part (// or a slash at the end)"
        if name in {".", ".."}:
            return f"it contains '{name}'"
        if name != name.strip():
            return f"the part {name!r} begins or ends with a space"
        if name.endswith("."):
            return f"the part {name!r} ends with a dot, which some file systems leave out"
        if name.partition(".")[0].rstrip().lower() in _DEVICES:
            return f"{name!r} is the name of a device on some file systems"
        if name.startswith(TEMPORARY):
            return f"names that begin with {TEMPORARY} are wanflow's own"
        if len(name.encode()) > MAX_NAME_BYTES:
            return f"a part has {len(name.encode())} bytes; at most {MAX_NAME_BYTES} are allowed"
    return ""


def control_character(text: str) -> str:
    """The first character that would hide or reorder what is shown, or that a terminal obeys; empty: there is none."""
    if text.isascii() and text.isprintable():
        return ""
    return next((c for c in text if unicodedata.category(c) in {"Cc", "Cs", "Zl", "Zp"} or c in _BIDI), "")


def shown(text: str, max_chars: int = 500) -> str:
    """``text`` for a message: control characters written out, cut where it is long. Line breaks stay."""
    text = text if len(text) <= max_chars else f"{text[: max_chars - 3]}..."
    if not control_character(text):
        return text
    return "".join(ascii(c)[1:-1] if c != "\n" and control_character(c) else c for c in text)


def folds_case(folder: str) -> bool:
    """Whether a local ``folder`` (there or not yet) takes names that differ in case for one."""
    path = Path(folder).absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    for part in (path, *path.parents):
        other = part.with_name(part.name.swapcase()) if part.name else part
        if other != part:
            try:
                return other.samefile(part)
            except OSError:
                return False
    return False


def scheme_of(url: str) -> str:
    """``file`` for plain paths, else the URL's scheme in lower case."""
    match = _SCHEME.match(url)
    return match.group(0)[:-3].lower() if match else "file"


def is_local(url: str) -> bool:
    """True for a path or ``file://`` URL, which other machines may not see."""
    return scheme_of(url) in {"file", "local"}


def local_path(url: str) -> str:
    """The path behind a local URL; ``file:///a`` and ``/a`` are the same."""
    return url.split("://", 1)[1] if _SCHEME.match(url) else url


def join(url: str, path: str) -> str:
    """``path`` below ``url``; ``path`` itself where it is absolute or a URL."""
    if not path:
        return url
    if _SCHEME.match(path) or path.startswith("/"):
        return path
    return f"{url.rstrip('/')}/{path}"


def redact(url: str) -> str:
    """``url`` without user, password and query, which may carry credentials."""
    if scheme_of(url) == "file":
        return url
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2] if parts.scheme not in {"abfs", "abfss", "az"} else parts.netloc
    return f"{parts.scheme}://{host}{parts.path}"
