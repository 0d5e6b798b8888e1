"""Input files: images, videos, sounds, fonts, LoRAs and subtitles, found, checked and identified by their bytes.

Every one passes ``wanflow.allowed`` first. It is decoded once while planning, in a process that may die
(``wanflow.decoder``), so that a broken one is a bad row in the first minute and not a failed clip in the fifth hour.
Every distinct URL is read once; what was wrong with it is remembered too. Thread-safe. The bytes are not kept:
whoever needs them calls :func:`read_source`, which notices when they have changed.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from wanflow.allowed import Allowed, locate
from wanflow.audio import Heard
from wanflow.errors import InputError, StoreError
from wanflow.input_checks import (
    FONT_MAGIC,
    IMAGE_MAGIC,
    Check,
    Said,
    check_captions,
    check_font,
    check_image,
    check_lora,
    check_sound,
    check_video,
)
from wanflow.model import Cue, Source
from wanflow.pictures import FORMATS

if TYPE_CHECKING:
    from wanflow.engines.lora_names import Dimensions
    from wanflow.memo import InputMemo

MAX_BYTES = 64 * 2**20
#: low-rank weights; those of rank 128 for every layer of one 14B expert take 0.6 GiB
MAX_LORA_BYTES = 2 * 2**30
#: source videos; a minute of 1080p as cameras write it
MAX_VIDEO_BYTES = 256 * 2**20
#: subtitles; those of a film have a tenth of it
MAX_CAPTIONS_BYTES = 2**20
#: what a file of them has passed that a memo knows
LORA_RULES = 1
SOUND_RULES = 1
VIDEO_RULES = 2
#: 64 megapixels are 8000x8000, 256 MB once decoded
MAX_PIXELS = 64_000_000
#: of what need not be checked again where an earlier run has checked the same bytes
_MAGIC = {"font": FONT_MAGIC, "image": IMAGE_MAGIC}
_MAX_BYTES = {"lora": MAX_LORA_BYTES, "video": MAX_VIDEO_BYTES, "captions": MAX_CAPTIONS_BYTES}
#: images read ahead at once; each may need MAX_PIXELS * 4 bytes for a moment
_READERS = 4
#: a web server that failed for so many files in a row is not asked for more
MAX_FAILED = 5
#: what a file has passed that a memo knows
RULES = f"4 {','.join(FORMATS)} {MAX_BYTES} {MAX_PIXELS}"


class Inputs:
    """Every input of a run, by the URL that asked for it."""

    def __init__(
        self,
        directory: str | Path,
        max_bytes: int = MAX_BYTES,
        max_pixels: int = MAX_PIXELS,
        memo: InputMemo | None = None,
        allowed: Allowed | None = None,
    ) -> None:
        """``allowed`` decides what may be read; None: what a job in ``directory`` allows by default. ``memo`` knows
        what earlier runs have checked: files that are unchanged are not read, and known bytes not decoded again.
        """
        self.directory = Path(directory).absolute()
        self.max_bytes = max_bytes
        self.max_pixels = max_pixels
        self._memo = memo
        self._allowed = allowed or Allowed.by_default(self.directory)
        self._reader = Reader(self._allowed)
        self._image_check = partial(check_image, max_pixels)
        self._known: dict[tuple[str, str], Source | InputError] = {}
        #: (kind, digest) -> what a sound or a subtitle file says
        self._said: dict[tuple[str, str], Said] = {}

    def image(self, url: str) -> Source:
        """The image at ``url`` (relative: below the directory). InputError: it is unusable; StoreError: an outage."""
        return self._get("image", url)

    def font(self, url: str) -> Source:
        """The font file at ``url``. InputError says why it cannot be used."""
        return self._get("font", url)

    def lora(self, url: str, dimensions: Dimensions | None = None) -> Source:
        """The low-rank weights at ``url``, which fit a checkpoint of ``dimensions``. InputError says why not."""
        sizes = f" {dimensions}" if dimensions else ""
        return self._get(f"lora {LORA_RULES}{sizes}", url, partial(check_lora, dimensions))

    def video(self, url: str, num_frames: int, fps: float) -> Source:
        """The video at ``url``, which can be decoded as far as a clip of ``num_frames`` at ``fps`` reaches.

        InputError says why not. It is read once for each length that it is asked for.
        """
        return self._get(*self._video(url, num_frames, fps))

    def sound(self, url: str) -> tuple[Source, Heard]:
        """The sound file at ``url``, and what is heard. InputError says why it cannot be used."""
        kind, _, check = self._sound(url)
        source = self._get(kind, url, check)
        heard = self._said[kind, source.digest]
        assert isinstance(heard, Heard)
        return source, heard

    def captions(self, url: str) -> tuple[Cue, ...]:
        """The cues of the subtitles at ``url``. InputError says which of them is wrong, and what to do.

        They are part of the plan, so each plan reads them anew.
        """
        cues = self._said["captions", self._get("captions", url, check_captions).digest]
        assert not isinstance(cues, Heard)
        return cues

    def prefetch_images(self, urls: Iterable[str]) -> None:
        """Read and check many images at once; what is wrong with one is said by :meth:`image`."""
        self._prefetch([("image", url, self._image_check) for url in dict.fromkeys(urls)])

    def prefetch_videos(self, videos: Iterable[tuple[str, int, float]]) -> None:
        """The same of videos; what is wrong with one is said by :meth:`video`."""
        self._prefetch([self._video(*video) for video in dict.fromkeys(videos)])

    def prefetch_sounds(self, urls: Iterable[str]) -> None:
        """The same of sounds; what is wrong with one is said by :meth:`sound`."""
        self._prefetch([self._sound(url) for url in dict.fromkeys(urls)])

    def prefetch_captions(self, urls: Iterable[str]) -> None:
        """The same of subtitles; what is wrong with one is said by :meth:`captions`."""
        self._prefetch([("captions", url, check_captions) for url in dict.fromkeys(urls)])

    def _sound(self, url: str) -> tuple[str, str, Check]:
        return f"sound {SOUND_RULES}", url, check_sound

    def _video(self, url: str, num_frames: int, fps: float) -> tuple[str, str, Check]:
        kind = f"video {VIDEO_RULES} {num_frames} {fps:g}"
        return kind, url, partial(check_video, num_frames, fps)

    def _prefetch(self, wanted: Iterable[tuple[str, str, Check]]) -> None:
        new = [each for each in wanted if each[1].strip() and each[:2] not in self._known]
        if self._memo is not None:
            places = [locate(url.strip(), self.directory) for _, url, _ in new]
            self._memo.look(filter(self._may_read, places), self._allowed)
        if len(new) > 1:
            with ThreadPoolExecutor(_READERS, thread_name_prefix="inputs") as pool:
                list(pool.map(lambda each: self._find(*each), new))

    def _get(self, kind: str, url: str, check: Check | None = None) -> Source:
        found = self._known.get((kind, url)) or self._find(kind, url, check)
        if isinstance(found, InputError):
            raise InputError(*found.args)
        return found

    def _find(self, kind: str, url: str, check: Check | None = None) -> Source | InputError:
        found: Source | InputError
        try:
            found = self._identify(kind, url, check or (check_font if kind == "font" else self._image_check))
        except InputError as exc:
            found = exc
        self._known[kind, url] = found
        return found

    def _identify(self, kind: str, url: str, check: Check) -> Source:
        if not url.strip():
            raise InputError("the path is empty")
        place = locate(url.strip(), self.directory)
        self._allowed.check(place)
        sort = kind.partition(" ")[0]
        if self._memo is not None:
            self._memo.look([place], self._allowed)
            known = self._memo.known(kind, place)
            heard = self._memo.heard(known) if known and sort == "sound" else None
            if known and (heard or sort != "sound"):  # a wanflow before sounds keeps the digest alone
                return self._found(kind, place, known, heard)
        data = self._reader.read(place, _MAX_BYTES.get(sort, self.max_bytes))
        if not data:
            raise InputError(f"{place}: is an empty file")
        digest = hashlib.sha256(data).hexdigest()
        # checked as what it is used for
        is_known = self._memo is not None and self._memo.has_passed(digest)
        said = None
        if sort not in _MAGIC or not is_known or not data.startswith(_MAGIC[sort]):
            said = check(place, data)
        if self._memo is not None and sort != "captions":  # whose words are wanted, and not only their digest
            self._memo.note(kind, place, digest, said if isinstance(said, Heard) else None)
        return self._found(kind, place, digest, said)

    def _found(self, kind: str, place: str, digest: str, said: Said | None) -> Source:
        if said is not None:
            self._said[kind, digest] = said
        return Source(place, digest)

    def _may_read(self, place: str) -> bool:
        try:
            self._allowed.check(place)
        except InputError:  # told with its row
            return False
        return True


class Reader:
    """Reads files that a job names, as far as it allows that (None: all). Thread-safe.

    A web server that does not answer is its rows' trouble, as a row may name any: it is not asked again. Nor is one
    that failed for several files in a row.
    """

    def __init__(self, allowed: Allowed | None) -> None:
        self._allowed = allowed
        #: web server -> what was wrong with it
        self._down: dict[str, str] = {}
        #: web server -> files that it failed for since the last that it gave
        self._num_failed: Counter[str] = Counter()

    def read(self, place: str, max_bytes: int = MAX_BYTES) -> bytes:
        """The bytes at ``place``. InputError: they cannot be had; StoreError: an outage of an object store."""
        from wanflow.storage import is_web

        if not is_web(place):
            return _read(place, max_bytes, self._allowed)
        host = urlsplit(place).netloc
        if host in self._down:
            raise InputError(f"{_name(place)}: cannot be read: {self._down[host]}")
        try:
            data = _read(place, max_bytes, self._allowed)
        except StoreError as exc:
            self._num_failed[host] += 1
            if not _has_answered(exc) or self._num_failed[host] >= MAX_FAILED:
                self._down[host] = str(exc)
            raise InputError(f"{_name(place)}: cannot be read: {exc}") from None
        self._num_failed[host] = 0
        return data


def _has_answered(error: StoreError) -> bool:
    from wanflow.storage.retry import diagnose

    return error.__cause__ is not None and diagnose(error.__cause__).status > 0


def read_source(source: Source) -> bytes:
    """The bytes of a source that was planned with and staged. InputError when they are others now; StoreError when they
    cannot be read: whoever planned could, so it is no fault of theirs."""
    from wanflow.storage import read_url

    try:
        data = read_url(source.url, MAX_BYTES)
    except OSError as exc:
        raise StoreError(f"{_name(source.url)}: cannot be read any more: {exc}") from exc
    return same_bytes(source, data)


def same_bytes(source: Source, data: bytes) -> bytes:
    """``data``, which lies at ``source`` now. InputError when it is not what was planned with."""
    if hashlib.sha256(data).hexdigest() != source.digest:
        raise InputError(
            f"{_name(source.url)}: has changed since it was planned with; run again to use it as it is now"
        )
    return data


def _read(place: str, max_bytes: int, allowed: Allowed | None) -> bytes:
    from wanflow.storage import read_url
    from wanflow.storage.retry import diagnose

    try:
        return read_url(place, max_bytes, allowed)
    except FileNotFoundError:
        raise InputError(f"{place}: does not exist") from None
    except IsADirectoryError:
        raise InputError(f"{place}: is a directory, not a file") from None
    except (StoreError, OSError) as exc:
        if isinstance(exc, StoreError) and exc.__cause__ and diagnose(exc.__cause__).transient:
            raise  # an outage is not the row's fault
        raise InputError(f"{place}: cannot be read: {exc}") from None


def _name(place: str) -> str:
    from wanflow.storage import redact

    return redact(place)
