"""Which input files are known by their bytes already, so that unchanged ones are listed and not read.

``<workspace>/inputs-memo.parquet``: digest of kind and URL, what the store said about the file (``Validators``; empty:
nothing), digest of its bytes, and the length of a sound. Only files that passed all checks have an entry. It says what
a file is as long as the store says the same, and that these bytes are good wherever they are. It is a cache: without it
every file is read. URLs are not kept, because they may carry credentials.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from contextlib import suppress

from wanflow.audio import Heard
from wanflow.errors import StoreError
from wanflow.parquet import dump_table, load_table
from wanflow.storage import Store, redact
from wanflow.storage.validators import Validators
from wanflow.storage.web import Gate

PATH = "inputs-memo.parquet"
#: beyond this many only those of the last run are kept
MAX_ENTRIES = 2_000_000


class InputMemo:
    """The memo of one workspace. ``rules`` says by which checks files passed: with others, it starts empty."""

    def __init__(self, rules: str = "") -> None:
        self._rules = rules
        #: short digest of kind and URL -> (validator, digest of the bytes)
        self._known: dict[bytes, tuple[str, bytes]] = {}
        #: digests of bytes that passed
        self._passed: set[bytes] = set()
        #: digest of a sound -> what is known of it
        self._heard: dict[bytes, Heard] = {}
        self._used: set[bytes] = set()
        self._changed = False
        self._validators = Validators()
        #: URL -> what its store says now
        self._now: dict[str, str] = {}
        self._asked: set[str] = set()

    @classmethod
    def load(cls, workspace: Store, rules: str) -> InputMemo:
        """The memo in ``workspace``; empty when there is none, it is damaged, or made by other rules."""
        import pyarrow as pa

        memo = cls(rules)
        with suppress(FileNotFoundError, pa.ArrowException, KeyError):
            table = load_table(workspace.read(PATH))
            if (table.schema.metadata or {}).get(b"rules") == rules.encode():
                columns = (table[name].to_pylist() for name in ("file", "validator", "digest"))
                memo._known = {
                    file: (validator, digest) for file, validator, digest in zip(*columns, strict=True)
                }
                memo._passed = {digest for _, digest in memo._known.values()}
                if "seconds" in table.column_names:
                    sounds = (table[name].to_pylist() for name in ("digest", "seconds", "silence_s"))
                    memo._heard = {
                        digest: Heard(seconds, silence_s)
                        for digest, seconds, silence_s in zip(*sounds, strict=True)
                        if seconds
                    }
        return memo

    def look(self, urls: Iterable[str], gate: Gate | None = None) -> None:
        """Ask the stores about ``urls`` at once, before :meth:`known` is asked for each; ``gate`` has let them pass."""
        new = [url for url in dict.fromkeys(urls) if url not in self._asked]
        self._asked.update(new)
        self._now.update(self._validators.of(new, gate))

    def known(self, kind: str, url: str) -> str | None:
        """The digest of the bytes at ``url`` if :meth:`look` found them as they were when it was noted, else None."""
        name = _name(kind, url)
        noted = self._known.get(name)
        now = self._now.get(url)
        if noted is None or now is None or noted[0] != now:
            return None
        self._used.add(name)
        return noted[1].hex()

    def has_passed(self, digest: str) -> bool:
        """Whether a file of these bytes was noted as good, whatever its kind and wherever it was."""
        return bytes.fromhex(digest) in self._passed

    def heard(self, digest: str) -> Heard | None:
        """What was noted of the sound of these bytes."""
        return self._heard.get(bytes.fromhex(digest))

    def note(self, kind: str, url: str, digest: str, heard: Heard | None = None) -> None:
        """The file at ``url`` was read after :meth:`known` was asked, and is good; ``heard``: it is a sound."""
        name, noted = _name(kind, url), (self._now.get(url, ""), bytes.fromhex(digest))
        if heard is not None and self._heard.get(noted[1]) != heard:
            self._heard[noted[1]] = heard
            self._changed = True
        self._used.add(name)
        if self._known.get(name) != noted:
            self._known[name] = noted
            self._passed.add(noted[1])
            self._changed = True

    def seen(self) -> dict[str, str] | None:
        """URL -> what its store says, of every file that was asked for; None when one of them cannot be vouched for:
        its store said nothing, or its URL may carry credentials and must not be kept.
        """
        if any(url not in self._now or redact(url) != url or "?" in url for url in self._asked):
            return None
        return {url: self._now[url] for url in self._asked}

    def save(self, workspace: Store) -> None:
        """Write the memo if it has changed. Not worth failing a run for."""
        if not self._changed:
            return
        import pyarrow as pa

        kept = self._known if len(self._known) <= MAX_ENTRIES else {n: self._known[n] for n in self._used}
        heard = [self._heard.get(digest) for _, digest in kept.values()]
        table = pa.table(
            {
                "file": pa.array(list(kept), pa.binary()),
                "validator": pa.array([validator for validator, _ in kept.values()], pa.string()),
                "digest": pa.array([digest for _, digest in kept.values()], pa.binary()),
                "seconds": pa.array([h and h.seconds for h in heard], pa.float64()),
                "silence_s": pa.array([h and h.silence_s for h in heard], pa.float64()),
            }
        ).replace_schema_metadata({"rules": self._rules})
        with suppress(StoreError):
            workspace.write(PATH, dump_table(table))
            self._changed = False


def _name(kind: str, url: str) -> bytes:
    return hashlib.sha256(f"{kind} {url}".encode()).digest()[:16]
