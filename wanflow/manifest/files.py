"""Where a manifest's files are: found, named by their format and folders, opened; and what it means that one cannot be.

What is in them is not known here.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote

from wanflow.errors import ManifestError, StoreError, WanflowError

_FORMATS = {
    ".parquet": "parquet", ".parq": "parquet", ".pq": "parquet", ".csv": "csv", ".tsv": "csv", ".jsonl": "json",
    ".ndjson": "json", ".json": "json",
}  # fmt: skip
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"


def find_files(url: str) -> tuple[list[str], str]:
    """The manifest's files, sorted, and their format."""
    from wanflow.storage import list_url

    try:
        found = list_url(url)
    except FileNotFoundError:
        found = []
    except StoreError as exc:
        raise trouble(f"manifest {url}", exc) from exc
    if not found:
        what = (
            "no file matches"
            if any(c in url for c in "*?[")
            else "there is no such file or directory, or it is empty"
        )
        raise ManifestError(f"manifest {url}: {what}")
    if len(found) == 1 and url.endswith(found[0]) and not _suffix(url):
        return found, "parquet"
    tables = [name for name in found if _suffix(name)]
    formats = {_suffix(name) for name in tables}
    if not tables:
        raise ManifestError(
            f"manifest {url}: none of its {len(found)} files is a {', '.join(sorted(_FORMATS))} file"
        )
    if len(formats) > 1:
        raise ManifestError(
            f"manifest {url}: has files of several formats ({', '.join(sorted(formats))}); keep one of them"
        )
    return tables, formats.pop()


def _suffix(url: str) -> str:
    """The format that a name's ending says, or nothing."""
    match = re.search(r"\.[A-Za-z]+$", url.split("?")[0])
    return _FORMATS.get(match[0].lower(), "") if match else ""


def folders_of(url: str) -> tuple[tuple[str, str | None], ...]:
    """(name, value) of each folder ``name=value`` of a partitioned data set."""
    pairs = (part.partition("=") for part in url.split("/")[:-1] if "=" in part)
    return tuple((name, None if value == _NO_VALUE else unquote(value)) for name, _, value in pairs if name)


def opened(url: str) -> Any:
    """The open file; ManifestError where there is none, StoreError where a later run may find it."""
    from wanflow.storage import open_url

    try:
        return open_url(url)
    except FileNotFoundError:
        raise ManifestError(f"manifest {url}: does not exist") from None
    except StoreError as exc:
        raise trouble(f"manifest {url}", exc) from exc


def trouble(what: str, exc: Exception, advice: str = "") -> WanflowError:
    """A StoreError for what may pass (a retry helps), else a ManifestError."""
    from wanflow.storage.retry import diagnose

    cause = exc.__cause__ if isinstance(exc, StoreError) and exc.__cause__ else exc
    if diagnose(cause).transient:
        return (
            exc
            if isinstance(exc, StoreError)
            else StoreError(f"{what}: {first_line(exc)}; a later run may succeed")
        )
    return ManifestError(f"{what}: {first_line(exc)}{advice}")


def first_line(exc: Exception) -> str:
    return (str(exc).strip() or type(exc).__name__).splitlines()[0]
