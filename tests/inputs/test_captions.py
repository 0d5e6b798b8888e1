"""Subtitle files as users have them: what is read of them, what is refused, and with which words."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.inputs.conftest import Case
from wanflow.captions import MAX_CUES, one_at_a_time, read_captions
from wanflow.errors import InputError, JobError
from wanflow.inputs import Inputs
from wanflow.keys import canonical, output_key
from wanflow.model import CaptionsLayer, Cue, Placement, Variant
from wanflow.storage import Store

SRT = "1\n00:00:00,500 --> 00:00:01,000\nHello\n\n2\n00:00:01,250 --> 00:00:01,750\nWelt\nist gro\u00df\n"
VTT = (
    "WEBVTT\n\nintro\n00:00.500 --> 00:01.000 line:0\nHello\n\n00:01.250 --> 00:01.750\nWelt\nist gro\u00df\n"
)
CUES = (Cue(0.5, 1.0, "Hello"), Cue(1.25, 1.75, "Welt\nist gro\u00df"))


@pytest.mark.parametrize(
    "data",
    [
        SRT.encode(),
        b"\xef\xbb\xbf" + SRT.encode(),
        SRT.encode("utf-16"),
        b"\xfe\xff" + SRT.encode("utf-16-be"),
        SRT.encode("utf-16-le"),
        SRT.encode("utf-16-be"),
        SRT.replace("\n", "\r\n").encode(),
        SRT.replace("\n", "\r").encode(),
        SRT.rstrip().encode(),
        SRT.replace("\n\n", "\n").encode(),
        SRT.replace("\n\n", "\n\n \n\n").encode(),
        ("\n\n" + SRT + "\n\n").encode(),
        SRT.replace("1\n00", "00", 1).replace("2\n00", "00").encode(),
        SRT.replace(",", ".").encode(),
        SRT.replace(" --> ", "-->").encode(),
        SRT.replace("00:00:0", "0:0").encode(),
        SRT.replace("00:00:0", "00:0").encode(),
        SRT.replace("00:00:00,500", "00:00:00,5").replace("01,000", "01").encode(),
        SRT.replace("01,000", "01,000  X1:10 X2:20 Y1:5 Y2:6").encode(),
        "2\n00:00:01,250 --> 00:00:01,750\nWelt\nist groß\n\n1\n00:00:00,500 --> 00:00:01,000\nHello\n".encode(),
        SRT.replace("Hello", "\n<font color=\"#fff\"><i>{\\an8}Hello</i></font> ").encode(),
        SRT.replace("Welt\n", "  Welt<br/>").encode(),
        SRT.replace("Hello", "Hel\x00\x1blo").encode(),
        (SRT + "\n3\n00:00:01,800 --> 00:00:01,900\n\n4\n00:00:02,000 --> 00:00:02,000\n<i> </i>\n\n5\n").encode(),
        VTT.encode(),
        b"\xef\xbb\xbf" + VTT.encode(),
        ("\n" + VTT.replace("WEBVTT\n", "WEBVTT - Ads\nKind: captions\nLanguage: de\n")).encode(),
        VTT.replace("WEBVTT\n\nintro", "WEBVTT").encode(),
        VTT.replace("00:0", "00:00:0").replace(".", ",").encode(),
        VTT.replace("\nHello", "\n<v.loud Ann &amp; Bob>Hel<00:00.700><c.yellow.bg_blue>lo</c></v>").encode(),
        VTT.replace("groß", "gro&szlig;&lrm;").replace("ist ", "ist&nbsp;").encode(),
        VTT.replace(
            "intro\n",
            "NOTE\n00:00.100 --> 00:00.200\nnot said\n\nSTYLE\n::cue { color: red }\n\nREGION\na\n\nNOTE x\n\nintro\n",
        ).encode(),
        (VTT + "\nNOTE the end").encode(),
    ],
)  # fmt: skip
def test_what_players_forgive_is_forgiven(data: bytes) -> None:
    """The same words at the same times, whatever tool wrote them, are the same video."""
    found = read_captions(data)
    assert tuple(replace(cue, text=cue.text.replace("\u200e", "")) for cue in found) == CUES


def cue(words: str, start: str = "00:00:01,000", end: str = "00:00:02,000") -> str:
    return f"1\n{start} --> {end}\n{words}\n\n"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (cue("2 < 3, I <3 you, a<b"), "2 < 3, I <3 you, a<b"),
        (cue("R&amp;D"), "R&amp;D"),
        ("WEBVTT\n\n00:01.000 --> 00:02.000\nR&amp;D &lt;i&gt; 2 &lt; 3", "R&D <i> 2 < 3"),
        (cue("In\n\n1999"), "In"),
        (cue("Two\n\nparts"), "Two\nparts"),
        (cue("42"), "42"),
        (cue("{curly} {\\i1}brackets{\\i0}"), "{curly} brackets"),
        (cue("NOTE well"), "NOTE well"),
        (cue("12:30 - 13:30 lunch"), "12:30 - 13:30 lunch"),
        (cue("- Hi!\n- \u0645\u0631\u062d\u0628\u0627"), "- Hi!\n- \u0645\u0631\u062d\u0628\u0627"),
    ],
)  # fmt: skip
def test_words_stay_what_they_are(data: str, words: str) -> None:
    """What looks like a code and is none is somebody's words."""
    [found] = read_captions(data.encode())
    assert found == Cue(1.0, 2.0, words)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b" \n\n", "has no words in it; where nothing is said, leave the cell empty"),
        (b"WEBVTT\n\n", "has no words in it"),
        (cue("<i></i>").encode(), "has no words in it"),
        (cue("Grün").encode("latin-1"), r"line 3 is not UTF-8 \(byte 0xFC\).*open it in that and save it as UTF-8"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR", "is not text; use an SRT or WebVTT file"),
        (b"\xff\xfea", "is not text"),
        (b"hello", r"line 1: 'hello' stands before the first times .* is it an SRT or WebVTT file\?"),
        (b"{\"cues\": []}", "stands before the first times"),
        (b"WEBVTT\n\nhello\nworld\n\n00:01.000 --> 00:02.000\nx", "line 3: 'hello' stands before"),
        (b"<!DOCTYPE html><p>login", "is a web page, not subtitles"),
        (b"<?xml version='1.0'?><tt>", "is XML"),
        (b"[Script Info]\nTitle: x", "is ASS; export it as SRT"),
        ((cue("a") + cue("b", "00:0x:03,000")).encode(),
         r"cue 2 \(line 6\): '00:0x:03,000 --> 00:00:02,000' are no times; write 00:00:01,000 -->"),
        (cue("a", "00:61:00,000").encode(), r"cue 1 \(line 2\): .* are no times"),
        (cue("a\nb --> c").encode(), r"cue 2 \(line 4\): 'b --> c' are no times"),
        ((cue("a") + "2\n00:00:03,000 -> 00:00:04,000\nb").encode(), r"cue 2 \(line 6\): .* are no times"),
        ((cue("a") + "2\n00:03 -- > 00:00:04,000\nb").encode(), r"cue 2 \(line 6\): .* are no times"),
        ((cue("a") + "2\n00:00:03,000 –> 00:00:04,000\nb").encode(), r"cue 2 \(line 6\): .* are no times"),
        ((cue("a") + cue("b", "00:00:09,000")).encode(),
         r"cue 2 \(line 6\): ends at 2 s, which is not after its start \(9 s\)"),
        (cue("a", "00:00:02,000").encode(), r"cue 1 \(line 2\): ends at 2 s, which is not after its start \(2 s\)"),
        (cue("word " * 300).encode(), r"cue 1 \(line 2\): has 1,499 characters; split it"),
        ("".join(cue(word) for word in "abcde").encode(), "has 5 cues at once at 1 s"),
        (b"00:01.000 --> 00:02.000\nx\n\n" * (MAX_CUES + 1), "has 10,001 cues; at most 10,000"),
    ],
)  # fmt: skip
def test_what_would_lose_words_is_refused_with_the_cue_and_what_to_do(data: bytes, words: str) -> None:
    """A time that cannot be read must not be burned in as words, nor the words after it be left out."""
    with pytest.raises(InputError, match=words):
        read_captions(data)


@pytest.mark.parametrize(
    "piece",
    ["<", ">", "<b", "<b ", "<1:", "</v.", "{\\", "&", "&#1", "1:00>", "-->", "-- ", "<br ", "1:00 --> 1:01 ", "\n1\n"],
)  # fmt: skip
def test_a_mebibyte_of_anything_is_read_in_a_moment(piece: str) -> None:
    """A row's file must not keep the planner busy for hours; processor time, so a busy machine does not matter."""
    before = time.process_time()
    for head in ("1:00 ", "", "00:01.000 --> 00:02.000\n", "WEBVTT\n\n00:01.000 --> 00:02.000\n1:00>"):
        with suppress(InputError):
            read_captions((head + piece * (2**20 // len(piece))).encode())
    assert time.process_time() - before < 20


def test_cues_that_overlap_by_milliseconds_follow_each_other() -> None:
    """Tools that round each time by itself write them all the time; shown together they would flicker."""
    text = cue("a", "00:00:01,000", "00:00:02,040") + cue("b", "00:00:02,000", "00:00:03,000")
    assert read_captions(text.encode()) == (Cue(1.0, 2.0, "a"), Cue(2.0, 3.0, "b"))


def test_two_who_talk_at_once_are_shown_together() -> None:
    """As players do: neither loses a word, and nobody has to clean up a transcript of a meeting."""
    text = cue("Ann", "00:00:01,000", "00:00:05,000") + cue("Bob", "00:00:02,000", "00:00:03,000")
    found = read_captions(text.encode())
    assert found == (Cue(1.0, 5.0, "Ann"), Cue(2.0, 3.0, "Bob"))
    assert one_at_a_time(found) == (Cue(1.0, 2.0, "Ann"), Cue(2.0, 3.0, "Ann\nBob"), Cue(3.0, 5.0, "Ann"))
    assert one_at_a_time(CUES) == CUES


TIMES = st.tuples(st.integers(0, 60), st.integers(1, 10))


@settings(max_examples=150, deadline=None)
@given(st.lists(TIMES, min_size=1, max_size=12))
def test_at_each_moment_the_words_are_those_of_the_cues_that_last(times: list[tuple[int, int]]) -> None:
    cues = sorted((Cue(a, a + n, f"{a} {n}") for a, n in times), key=lambda cue: cue.start_s)
    made = one_at_a_time(cues)
    for moment in range(71):
        lasting = [cue.text for cue in cues if cue.start_s <= moment < cue.end_s]
        found = [cue.text for cue in made if cue.start_s <= moment < cue.end_s]
        assert found == (["\n".join(dict.fromkeys(lasting))] if lasting else [])


def test_files_come_through_the_door_of_all_inputs(tmp_path: Path, s3_url: str) -> None:
    """From a store as from a folder, and from nowhere that the job does not allow."""
    Store(s3_url).write("talk.srt", SRT.encode())
    (tmp_path / "job").mkdir()
    (tmp_path / "talk.srt").write_text(SRT)
    inputs = Inputs(tmp_path / "job")
    assert inputs.captions(f"{s3_url}/talk.srt") == CUES
    for name in ("../talk.srt", str(tmp_path / "talk.srt"), "/etc/passwd", "http://127.0.0.1/talk.srt"):
        with pytest.raises(InputError, match=r"inputs\.allow"):
            inputs.captions(name)


# in a manifest

GOOD = {"variant_id": "good", "prompt": "x"}
LAYERS = [{"captions": {"url": "{{ srt }}"}}]


def test_a_rows_file_becomes_one_layer_in_the_style_of_captions(case: Case) -> None:
    (case.folder / "talk.srt").write_text(SRT)
    case.rows([GOOD | {"srt": "talk.srt"}, GOOD | {"variant_id": "silent", "srt": ""}])
    spoken, silent = case.variants(layers=LAYERS)
    assert spoken.scenes[0].layers == (CaptionsLayer(CUES, Placement("lower-third")),)
    assert silent.scenes[0].layers == ()


def test_look_and_place_are_the_jobs(case: Case) -> None:
    (case.folder / "talk.srt").write_text(SRT)
    case.rows([GOOD])
    given = {"at": "bottom", "style": "subhead", "color": "#fa0", "background": "#000", "size": "5%"}
    more = {"margin": "2%", "opacity": 0.9, "width": "60%"}
    [variant] = case.variants(layers=[{"captions": {"url": "talk.srt", **given, **more}}])
    place = Placement("bottom", width=0.6, margin=0.02, opacity=0.9)
    expected = CaptionsLayer(CUES, place, "subhead", "#ffaa00", "#000000", None, 0.05)
    assert variant.scenes[0].layers == (expected,)


def test_the_key_is_that_of_the_words_and_their_times(case: Case) -> None:
    """Another name, another format: the same video. Another word: another one."""
    (case.folder / "a.srt").write_text(SRT)
    (case.folder / "b.vtt").write_text(VTT)
    (case.folder / "c.srt").write_text(SRT.replace("Hello", "Hi"))
    (case.folder / "d.srt").write_text(SRT.replace("00,500", "00,510"))
    case.rows([GOOD | {"variant_id": name, "srt": name} for name in ("a.srt", "b.vtt", "c.srt", "d.srt")])
    keys = [output_key(v, v.outputs[0][0]) for v in case.variants(layers=LAYERS)]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3
    assert canonical(CaptionsLayer(CUES, Placement("top"))) != canonical(
        CaptionsLayer(CUES[:1], Placement("top"))
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            SRT.replace("00:00:00,5", "00:0x:00,5"),
            "layers.0.captions.url: {folder}/bad.srt: cue 1 (line 2): ",
        ),
        ("", "layers.0.captions.url: {folder}/bad.srt: is an empty file"),
        ("x" * (2**20 + 1), "bad.srt is larger than the 1048576 bytes allowed"),
        (None, "layers.0.captions.url: {folder}/bad.srt: does not exist"),
        (
            SRT.replace("00:00:01,250 --> 00:00:01,750", "00:00:02,125 --> 00:00:09,000"),
            "layers.0.captions.url: bad.srt: the cue 'Welt\\nist gro\u00df' begins at 2.125 s, which is not before the "
            "end of the clip (2.125 s); take it out, or make the clip longer (seconds)",
        ),
    ],
)
def test_a_bad_file_is_one_bad_row_and_the_others_go_on(case: Case, text: str | None, reason: str) -> None:
    (case.folder / "good.srt").write_text(SRT)
    if text is not None:
        (case.folder / "bad.srt").write_text(text)
    case.rows([GOOD | {"srt": "good.srt"}, GOOD | {"variant_id": "bad", "srt": "bad.srt"}])
    good, *bad = case.read(layers=LAYERS)
    assert isinstance(good, Variant)
    [told] = bad
    assert str(told).startswith(f"row 2 (bad): {reason.format(folder=case.folder)}") or reason in str(told)


def test_a_cue_that_only_ends_after_the_clip_is_fine(case: Case) -> None:
    (case.folder / "talk.srt").write_text(SRT.replace("01,750", "59,000"))
    case.rows([GOOD | {"srt": "talk.srt"}])
    assert len(case.variants(layers=LAYERS)) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, r"layers\.0\.captions\.url: .*talk\.srt: does not exist"),
        ("hello", r"layers\.0\.captions\.url: .*talk\.srt: line 1: 'hello' stands before the first times"),
        (
            SRT.replace("00:00:01,", "00:01:01,"),
            r"talk\.srt: the cue 'Welt.*' begins at 61.25 s, which is not before",
        ),
    ],
)
def test_what_every_row_would_suffer_from_is_told_once(case: Case, text: str | None, words: str) -> None:
    if text is not None:
        (case.folder / "talk.srt").write_text(text)
    case.rows([GOOD])
    with pytest.raises(JobError, match=words):
        case.read(layers=[{"captions": {"url": "talk.srt"}}], clip={"seconds": 2})


def test_words_have_no_times_of_their_own(case: Case) -> None:
    with pytest.raises(JobError, match=r"layers\.0\.captions\.end: unknown key"):
        case.job(layers=[{"captions": {"url": "a.srt", "end": 1}}])
    with pytest.raises(JobError, match=r"layers\.0\.caption: unknown key; did you mean `captions`\?"):
        case.job(layers=[{"caption": {"url": "a.srt"}}])


def test_captions_begin_with_the_voice_that_they_were_made_for(case: Case) -> None:
    """A transcript is timed from the file's beginning, and the voice starts a moment into the scene."""
    (case.folder / "a.srt").write_text("1\n00:00:00,500 --> 00:00:01,000\nHello\n")
    case.rows([{"variant_id": "a", "prompt": "x", "late": 0.25}])
    [variant] = case.variants(layers=[{"captions": {"url": "a.srt", "start": "{{ late }}"}}])
    [layer] = variant.scenes[0].layers
    assert isinstance(layer, CaptionsLayer)
    assert [(cue.start_s, cue.end_s) for cue in layer.cues] == [(0.75, 1.25)]
    assert (layer.place.start_s, layer.place.end_s) == (0.0, None)
    [bad] = case.bad(layers=[{"captions": {"url": "a.srt", "start": "{{ late * 8 }}"}}])
    assert "begins at 2.5 s, which is not before the end of the clip (2.125 s)" in bad.reason
    with pytest.raises(JobError, match=r"begins at 2\.5 s"):
        case.variants(layers=[{"captions": {"url": "a.srt", "start": 2}}])
