"""Subtitle files, SubRip (.srt) and WebVTT (.vtt), read into cues; and which words are shown when.

What players forgive is forgiven: byte order marks, UTF-16, line ends of any kind, blank lines too many or missing,
hours or numbers left out, a point for a comma, cues out of order or overlapping. What would lose or garble words is an
error that names the cue and its line. Places, colours and voices are dropped, their words kept.

A parser of our own: of a time that they cannot read, pysubs2 1.8 and srt 3.5 make words of the cue before; webvtt-py
0.6 says no more than that the format is invalid; and none of them knows WebVTT's entities.
"""

from __future__ import annotations

import codecs
import html
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from wanflow.errors import InputError
from wanflow.model import Cue

#: three hours of talk have fewer
MAX_CUES = 10_000
#: a cue is a line or two; one that is longer is a mistake in the data
MAX_CUE_CHARS = 1000
MAX_AT_ONCE = 4
#: where two cues overlap by so little, one follows the other
_SLACK_S = 0.2

_TIME = r"(?:(\d{1,3}):)?([0-5]?\d):([0-5]?\d)(?:[.,](\d{1,3}))?"
#: what follows are places on the screen
_TIMES = re.compile(rf"{_TIME} ?--> ?{_TIME}(?: .*)?", re.ASCII)
_TAG = re.compile(
    r"</?(?:[bcisuv]|font|lang|ruby|rt)(?:[.\s][^<>]*)?>|<\d+:[\d:.]+>|\{\\[^{}]*\}", re.IGNORECASE
)
_BREAK = re.compile(r"<br */?>", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ufeff]")
#: times with another arrow
_NEARLY = re.compile(r"\d{1,3}:\d\d[\d:.,]{0,12} ?[-–—= ]{0,4}[>→] ?\d{1,3}:\d\d", re.ASCII)
#: blocks of WebVTT that are no cues
_BLOCK = re.compile(r"(WEBVTT|NOTE|STYLE|REGION)(?: |$)")
#: how other files begin, and what to do about it
_OTHERS = {
    "<!doctype": "is a web page, not subtitles; is the URL right, and does it need a login?",
    "<html": "is a web page, not subtitles; is the URL right, and does it need a login?",
    "<?xml": "is XML (TTML?); export it as SRT or WebVTT",
    "<tt": "is TTML; export it as SRT or WebVTT",
    "[script info]": "is ASS; export it as SRT or WebVTT",
}


@dataclass(slots=True)
class _Raw:
    """A cue as it stands in the file."""

    number: int
    #: in which its times are
    line: int
    start_s: float
    end_s: float
    #: (line, words, whether the line before is blank)
    words: list[tuple[int, str, bool]] = field(default_factory=list)

    def __str__(self) -> str:
        return f"cue {self.number} (line {self.line})"


def read_captions(data: bytes) -> tuple[Cue, ...]:
    """The cues of a subtitle file in the order of their start, those without words left out.

    InputError says which cue is wrong, and what to do.
    """
    text = _decode(data)
    for head, words in _OTHERS.items():
        if text[:100].lstrip().lower().startswith(head):
            raise InputError(words)
    is_vtt = text.lstrip().startswith("WEBVTT")
    cues = []
    for raw in _parse(re.split(r"\r\n|\r|\n", text), is_vtt):
        words = _words([line for _, line, _ in raw.words], is_vtt)
        if not words:
            continue
        if raw.end_s <= raw.start_s:
            raise InputError(
                f"{raw}: ends at {raw.end_s:g} s, which is not after its start ({raw.start_s:g} s)"
            )
        if len(words) > MAX_CUE_CHARS:
            raise InputError(f"{raw}: has {len(words):,} characters; split it into cues of a line or two")
        cues.append(Cue(raw.start_s, raw.end_s, words))
    if not cues:
        raise InputError("has no words in it; where nothing is said, leave the cell empty")
    if len(cues) > MAX_CUES:
        raise InputError(f"has {len(cues):,} cues; at most {MAX_CUES:,} are read")
    cues.sort(key=lambda cue: cue.start_s)
    for i, (cue, after) in enumerate(pairwise(cues)):
        if cue.start_s < after.start_s < cue.end_s <= after.start_s + _SLACK_S:
            cues[i] = replace(cue, end_s=after.start_s)
    _check_overlaps(cues)
    return tuple(cues)


def one_at_a_time(cues: Sequence[Cue]) -> tuple[Cue, ...]:
    """``cues``, which are in the order of their start, without overlaps: while several last, their words are one's."""
    found: list[Cue] = []
    lasting: list[Cue] = []
    coming = list(reversed(cues))
    for start_s, end_s in pairwise(sorted({time for cue in cues for time in (cue.start_s, cue.end_s)})):
        lasting = [cue for cue in lasting if cue.end_s > start_s]
        while coming and coming[-1].start_s <= start_s:
            lasting.append(coming.pop())
        if not lasting:
            continue
        words = "\n".join(dict.fromkeys(cue.text for cue in lasting))
        if found and found[-1].end_s == start_s and found[-1].text == words:
            found[-1] = replace(found[-1], end_s=end_s)
        else:
            found.append(Cue(start_s, end_s, words))
    return tuple(found)


def _decode(data: bytes) -> str:
    encoding = "utf-8"
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    elif data[1:2] == b"\0" or data[:1] == b"\0":
        encoding = "utf-16-le" if data[1:2] == b"\0" else "utf-16-be"
    try:
        return data.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as exc:
        if encoding != "utf-8" or b"\0" in data:
            raise InputError("is not text; use an SRT or WebVTT file, saved as UTF-8") from None
        line = data.count(b"\n", 0, exc.start) + 1
        raise InputError(
            f"line {line} is not UTF-8 (byte 0x{data[exc.start]:02X}): it looks like Latin-1 or another old encoding; "
            "open it in that and save it as UTF-8"
        ) from None


def _parse(lines: Sequence[str], is_vtt: bool) -> Iterator[_Raw]:
    """Times begin a cue, whatever is missing around them; all that follows is its words, up to the next one's name."""
    before: list[tuple[int, str, bool]] = []
    cue: _Raw | None = None
    skipped, is_after_blank = "", True
    for i, raw in enumerate(lines, 1):
        line = " ".join(_CONTROL.sub("", raw).split())
        if not line:
            skipped, is_after_blank = "", True
            continue
        if ("-->" in line or _NEARLY.match(line)) and skipped in ("", "WEBVTT"):
            number = cue.number + 1 if cue else 1
            times = _TIMES.fullmatch(line)
            if times is None:
                raise InputError(
                    f"cue {number} (line {i}): {short(line)} are no times; write 00:00:01,000 --> 00:00:02,500"
                )
            words = cue.words if cue else before
            if words and words[-1][0] == i - 1 and (words[-1][1].isdecimal() or (is_vtt and words[-1][2])):
                words.pop()  # the number or name of this one
            if cue:
                yield cue
            elif before:
                raise _no_cue(before)
            cue = _Raw(number, i, _seconds(times.groups()[:4]), _seconds(times.groups()[4:]))
            skipped = ""
        elif is_vtt and is_after_blank and (block := _BLOCK.match(line)):
            skipped = block[1]
        elif not skipped:
            (cue.words if cue else before).append((i, line, is_after_blank))
        is_after_blank = False
    if cue:
        if cue.words and cue.words[-1][1].isdecimal() and cue.words[-1][2]:
            cue.words.pop()  # the number of one that was cut off
        yield cue
    elif before:
        raise _no_cue(before)


def _no_cue(before: Sequence[tuple[int, str, bool]]) -> InputError:
    line, words, _ = before[0]
    return InputError(
        f"line {line}: {short(words)} stands before the first times (00:00:01,000 --> 00:00:02,500); "
        "is it an SRT or WebVTT file?"
    )


def _seconds(parts: Sequence[str | None]) -> float:
    hours, minutes, seconds, fraction = (part or "0" for part in parts)
    return (
        int(hours) * 3_600_000 + int(minutes) * 60_000 + int(seconds) * 1000 + int(fraction.ljust(3, "0"))
    ) / 1000


def _words(lines: Sequence[str], is_vtt: bool) -> str:
    text = _TAG.sub("", _BREAK.sub("\n", "\n".join(lines)))
    if is_vtt:
        text = html.unescape(text)
    return "\n".join(kept for line in text.split("\n") if (kept := " ".join(line.split())))


def _check_overlaps(cues: Sequence[Cue]) -> None:
    lasting: list[Cue] = []
    for cue in cues:
        lasting = [*(each for each in lasting if each.end_s > cue.start_s), cue]
        if len(lasting) > MAX_AT_ONCE:
            raise InputError(
                f"has {len(lasting)} cues at once at {cue.start_s:g} s, of which nobody reads more than {MAX_AT_ONCE}; "
                "let some of them end before"
            )


def short(words: str) -> str:
    """The beginning of ``words``, in quotes."""
    return repr(words if len(words) <= 40 else f"{words[:37]}...")
