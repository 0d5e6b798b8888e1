"""Which inputs may be read: the one door for everything that a manifest, a job or a template names (images, fonts).

Rows come from other people, and the machine that plans has credentials, a network and a disk. So an input is read
only below one of the job's ``inputs.allow`` (folders, URL prefixes, whole schemes such as ``s3://``), and over HTTP
only from public addresses or ``inputs.networks``. Without ``inputs.allow``: the folders of job and manifest, object
stores, HTTPS.

:meth:`Allowed.check` decides by the name, :meth:`Allowed.check_file` by where an open file really lies,
:meth:`Allowed.check_address` by the address that is about to be connected to; ``wanflow.storage`` asks it at every
step. Reads nothing itself but links. Limits: hard links cannot be told from files; ``manifest.url``, the checkpoint,
``workspace`` and ``publish.url`` are the job's own word and do not pass here; an object store's endpoint is the
environment's.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import unquote, urlsplit

from wanflow.errors import InputError
from wanflow.storage.paths import control_character, shown

#: schemes that are read where a job does not say; also every scheme that inputs can have, with ``http``
SCHEMES = ("s3", "gs", "abfs", "https")
_ALIASES = {"s3a": "s3", "gcs": "gs", "abfss": "abfs", "az": "abfs"}
_PORTS = {"http": 80, "https": 443}
MAX_CHARS = 2000
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_GLOB = re.compile(r"[*?\[{]")
#: translates to an IPv4 address in its last 32 bits
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_MORE = "to allow it, list it under `inputs.allow` of the job"


def locate(name: str, directory: Path) -> str:
    """The URL or absolute path that ``name`` means when it is written in a file of ``directory``. Globs stay."""
    if "://" in name:
        return name
    home = os.path.expanduser(name) if "\0" not in name else name  # no user of this name; refused by Allowed
    return os.path.normpath(directory.absolute() / home)


@dataclass(frozen=True, slots=True)
class Prefix:
    """What a URL must begin with, part by part: ``https://cdn.example.com`` is no prefix of ``...com.evil.org``."""

    scheme: str
    #: host or bucket; empty: any
    host: str = ""
    port: int | None = None
    path: str = "/"

    @classmethod
    def of(cls, url: str) -> Self:
        """The parts of ``url``, in one spelling. ValueError says why it is none that inputs can have."""
        if len(url) > MAX_CHARS:
            raise ValueError(f"has {len(url):,} characters; at most {MAX_CHARS:,} are allowed")
        if control_character(url) or "\\" in url or "::" in url.partition("://")[2].partition("[")[0]:
            raise ValueError("has control characters, backslashes or :: in it")
        parts = urlsplit(url)
        scheme = _ALIASES.get(parts.scheme.lower(), parts.scheme.lower())
        if scheme in _PORTS:
            if "@" in parts.netloc:
                raise ValueError("has a user or a password in it, which do not belong into a table")
            host = _host(parts.hostname or "")
            port = parts.port or _PORTS[scheme]
        else:
            host, port = parts.netloc, None
            if "@" in host and scheme != "abfs":
                raise ValueError("has credentials in it; they belong into the environment")
        if any(unquote(unquote(part)) in {".", ".."} for part in parts.path.split("/")):
            raise ValueError("has . or .. in its path; write out where it is")
        return cls(scheme, host, port, parts.path or "/")

    def covers(self, other: Prefix) -> bool:
        if self.scheme != other.scheme:
            return False
        if not self.host:
            return True
        inside = other.path == self.path or other.path.startswith(self.path.rstrip("/") + "/")
        return inside and (self.host, self.port) == (other.host, other.port)


class Allowed:
    """What one job allows. ``entries`` are folders (relative: below ``directory``) and URL prefixes."""

    def __init__(
        self, entries: Iterable[str], directory: str | Path = ".", networks: Iterable[str] = ()
    ) -> None:
        """ValueError names an entry that is neither."""
        self.entries = tuple(entries)
        self.folders: tuple[str, ...] = ()
        self.prefixes: tuple[Prefix, ...] = ()
        self.networks = tuple(ipaddress.ip_network(text) for text in networks)
        for entry in self.entries:
            if _SCHEME.match(entry) and not entry.lower().startswith("file://"):
                self.prefixes += (_entry(entry),)
            else:
                self.folders += (os.path.realpath(locate(_plain(entry), Path(directory))),)
        #: folder as it is written -> where it really is, so that a million names cost one look each
        self._real: dict[str, str] = {}

    @classmethod
    def by_default(cls, directory: str | Path, manifest: str = "", networks: Iterable[str] = ()) -> Self:
        """The folders of the job (``directory``) and of its manifest, object stores, HTTPS."""
        entries = [str(Path(directory).absolute())]
        if (path := _plain(manifest)) and not _SCHEME.match(path):
            entries.append(path if os.path.isdir(path) else os.path.dirname(_GLOB.split(path)[0]))
        return cls([*entries, *(f"{scheme}://" for scheme in SCHEMES)], directory, networks)

    def check(self, place: str) -> None:
        """InputError unless ``place`` (a URL or an absolute path) may be read, by its name and the links in it."""
        if _SCHEME.match(place) and not place.lower().startswith("file://"):
            self._check_url(place)
            return
        path = _plain(place)
        if len(path) > MAX_CHARS or control_character(path):
            raise InputError(f"{shown(path, 80)}: is no path: it is too long or has control characters in it")
        folder, name = os.path.split(os.path.normpath(path))
        real = self._real.get(folder)
        if real is None:
            real = self._real[folder] = os.path.realpath(folder)
        file = os.path.join(real, name)
        self.check_file(os.path.realpath(file) if os.path.islink(file) else file, path)

    def check_file(self, real: str, path: str = "") -> None:
        """InputError unless the file ``real`` (without links) lies in an allowed folder."""
        if any(real == folder or real.startswith(folder.rstrip("/") + "/") for folder in self.folders):
            return
        where = f" (a link to {real})" if path and path != real else ""
        raise InputError(
            f"{path or real}{where}: is outside of the folders that inputs may come from "
            f"({', '.join(self.folders) or 'none'}); {_MORE}"
        )

    def check_address(self, url: str, address: str) -> None:
        """InputError unless ``address`` (of the host of ``url``) is public or in ``networks``."""
        number = _meant(address)
        if number.is_global and not number.is_multicast:
            return
        if any(number in network for network in self.networks if network.version == number.version):
            return
        host = urlsplit(url).hostname
        raise InputError(
            f"{_shown(url)}: {host} leads to {number}, which is no public address; "
            f"if that is meant, set `inputs.networks: [{number}]` in the job"
        )

    def _check_url(self, url: str) -> None:
        try:
            wanted = Prefix.of(url)
        except ValueError as exc:
            raise InputError(f"{_shown(url)}: {exc}") from None
        if not any(prefix.covers(wanted) for prefix in self.prefixes):
            raise InputError(f"{_shown(url)}: is not below a place that inputs may come from; {_MORE}")


def check_entry(entry: str) -> str:
    """``entry`` itself when ``inputs.allow`` can have it; ValueError otherwise."""
    if _SCHEME.match(entry) and not entry.lower().startswith("file://"):
        _entry(entry)
    elif not entry.strip() or control_character(entry):
        raise ValueError("is empty; write a folder, a URL prefix or a scheme such as s3://")
    return entry


def check_network(text: str) -> str:
    """``text`` itself when it is an address or a network; ValueError otherwise."""
    try:
        ipaddress.ip_network(text)
    except ValueError as exc:
        raise ValueError(f"`{text}` is no network ({exc}); write it as 10.0.0.0/8") from None
    return text


def _entry(entry: str) -> Prefix:
    try:
        prefix = Prefix.of(entry)
    except ValueError as exc:
        raise ValueError(f"`{entry}` {exc}") from None
    if prefix.scheme not in {*SCHEMES, "http", "memory"}:
        raise ValueError(f"`{entry}`: inputs are read from folders, {', '.join(SCHEMES)} and http")
    return prefix


def _plain(place: str) -> str:
    return place[len("file://") :] if place.lower().startswith("file://") else place


def _host(name: str) -> str:
    """One spelling of a host: lower case, ASCII, without the dot at its end."""
    try:
        host = (
            name.rstrip(".").encode("idna").decode().lower()
            if not name.isascii()
            else name.rstrip(".").lower()
        )
    except UnicodeError:
        raise ValueError("has a host name that cannot be") from None
    return host


def _meant(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The address that traffic to ``address`` ends at: IPv4 addresses that are wrapped into IPv6 are unwrapped."""
    number = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(number, ipaddress.IPv4Address):
        return number
    if number in _NAT64:
        return ipaddress.IPv4Address(int(number) & 0xFFFFFFFF)
    return number.ipv4_mapped or number.sixtofour or (number.teredo or [None, None])[1] or number


def _shown(url: str) -> str:
    """``url`` for a message: without credentials, which ``redact`` finds in good URLs only."""
    return shown(re.sub(r"//[^/@]*@", "//", url.partition("?")[0]), 200)
