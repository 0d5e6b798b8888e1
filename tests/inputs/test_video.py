"""`video` and `strength`: a clip that is made from footage; what is wrong with it is said while planning."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.inputs.conftest import ENGINES, SPEC, Case
from tests.videos import write_video
from wanflow.errors import BadRow, EngineError, InputError, JobError, ManifestError
from wanflow.inputs import Inputs, Reader
from wanflow.memo import InputMemo
from wanflow.model import Clip, Mode, Variant

I2V = {Mode.I2V: dataclasses.replace(SPEC, modes=frozenset({Mode.I2V}))}
#: 12 steps, 17 frames at 8 a second
ROW: dict[str, Any] = {"variant_id": "a", "prompt": "x", "video": "two.mp4"}


@pytest.fixture
def footage(case: Case) -> Case:
    write_video(case.folder / "two.mp4", [10 * i for i in range(16)], rate=8)
    write_video(case.folder / "one.mp4", [10 * i for i in range(8)], rate=8)
    (case.folder / "text.mp4").write_text("hello")
    (case.folder / "cut.mp4").write_bytes((case.folder / "two.mp4").read_bytes()[:900])
    case.picture("a.png", (8, 8))
    return case


def _clip(item: Variant | BadRow) -> Clip:
    assert isinstance(item, Variant), item
    return item.scenes[0].clip("16x9")


def test_a_row_names_its_footage(footage: Case) -> None:
    """The column alone is enough; a template comes before it; an empty cell is a clip from noise."""
    footage.rows([ROW, ROW | {"variant_id": "b", "video": None}])
    first, second = map(_clip, footage.read())
    assert first.video is not None
    assert first.video.source.url == str(footage.folder / "two.mp4")
    assert (first.mode, first.video.steps, first.num_steps) == (Mode.T2V, 9, 9), (
        "0.8 of 12, as diffusers counts"
    )
    assert [source.url[-7:] for source in first.sources] == ["two.mp4"]
    assert (second.video, second.num_steps) == (None, 12)
    footage.rows([ROW | {"video": None, "clip": "two"}])
    (named,) = map(_clip, footage.read(clip={"video": "{{ clip }}.mp4", "strength": 0.5}))
    assert named.video is not None
    assert (named.video.source, named.video.steps) == (first.video.source, 6)
    footage.rows([ROW])
    assert _clip(*footage.read(clip={"video": ""})).video is None


def test_strength_may_be_a_template_and_counts_by_its_steps(footage: Case) -> None:
    """Rows whose strengths come to the same step are the same clip."""
    rows = [ROW | {"variant_id": str(s), "much": s} for s in (0.5, 0.55, 0.75, 1.0)]
    footage.rows(rows)
    half, same, more, whole = map(_clip, footage.read(clip={"strength": "{{ much }}"}))
    assert half == same
    assert [clip.num_steps for clip in (half, more, whole)] == [6, 9, 12]
    footage.rows(
        [
            ROW | {"much": "very"},
            ROW | {"variant_id": "b", "much": "0"},
            ROW | {"variant_id": "c", "much": "0.01"},
        ]
    )
    reasons = [str(bad) for bad in footage.read(clip={"strength": "{{ much }}"})]
    assert [reason.partition("strength: ")[2] for reason in reasons] == [
        "`very` is not a number",
        "0 is out of range; a strength is above 0 and at most 1",
        "0.01 of 12 steps is less than one; give at least 0.0833",
    ]


@pytest.mark.parametrize(
    ("engines", "row", "reason"),
    [
        (
            ENGINES,
            {"video": "one.mp4"},
            "one.mp4: lasts 1.00 s, and a clip of 17 frames at 8 a second needs 2.00; give a longer one, or make the "
            "clip shorter (seconds)",
        ),
        (ENGINES, {"seconds": 4.0}, "two.mp4: lasts 2.00 s, and a clip of 33 frames at 8 a second needs 4.00"),
        (ENGINES, {"video": "gone.mp4"}, "gone.mp4: does not exist"),
        (ENGINES, {"video": "text.mp4"}, "text.mp4: is no video that can be read; use MP4, MOV, MKV or WebM"),
        (ENGINES, {"video": "a.png"}, "a.png: is no video that can be read"),
        (ENGINES, {"video": "cut.mp4"}, "cut.mp4: is broken or cut off"),
        (ENGINES, {"video": "/etc/passwd"}, "video: "),
        (ENGINES, {"image": "a.png"}, "video: a clip is made from it or has an image, not both"),
        (ENGINES, {"last_image": "a.png"}, "video: a clip is made from it or has a last image, not both"),
        (ENGINES, {"prompt": ""}, "prompt: is empty"),
        (
            I2V,
            {},
            "the row has a video, so it needs a checkpoint for t2v (there is i2v: pocket); set engine.checkpoint.t2v, "
            "or give an image in its place",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_with_it_is_its_rows_reason(
    footage: Case, engines: Any, row: dict[str, Any], reason: str
) -> None:
    """Found before a GPU is touched, beside the rows that are well."""
    footage.rows([ROW | {"image": None, "last_image": None} | row])
    (bad,) = footage.read(engines)
    assert isinstance(bad, BadRow)
    assert reason in bad.reason


def test_footage_with_damaged_pictures_is_refused(footage: Case) -> None:
    """Decoders fill what is missing with guesses, and a clip would be made from them."""
    frames = [np.random.default_rng(i).integers(0, 255, (48, 64, 3), np.uint8) for i in range(16)]
    path = write_video(footage.folder / "noise.mp4", frames, rate=8)
    data = bytearray(path.read_bytes())
    for at in range(len(data) // 4, len(data) // 2, 200):
        data[at] ^= 0xFF
    path.write_bytes(data)
    footage.rows([ROW | {"video": "noise.mp4"}])
    (bad,) = footage.read()
    assert "noise.mp4: is broken or cut off (a frame at " in str(bad)


def test_every_reason_is_told_at_once(footage: Case) -> None:
    """Whoever mends the strength must not learn the next night that the footage is too short, too."""
    footage.rows([ROW | {"video": "one.mp4", "much": 2}])
    reasons = [str(bad) for bad in footage.read(clip={"strength": "{{ much }}"})]
    assert [reason.partition("): ")[2][:40] for reason in reasons] == [
        "strength: 2 is out of range; a strength ",
        f"video: {footage.folder}/one.mp4: lasts 1.00 s"[:40],
    ]


def test_a_shorter_clip_of_the_same_footage_is_well(footage: Case) -> None:
    footage.rows([ROW | {"video": "one.mp4", "seconds": 1.0}])
    assert _clip(*footage.read()).num_frames == 9


def test_a_clip_from_a_video_has_no_trunk(footage: Case) -> None:
    footage.rows([ROW])
    (bad,) = footage.read(clip={"branch": {"at": 0.5, "on": "sea"}})
    assert "video: a clip is made from it or has clip.branch, not both; leave one of them empty" in str(bad)


def test_what_is_wrong_with_every_row_is_told_once(footage: Case) -> None:
    """The job's own footage or strength is the job's mistake."""
    footage.rows([{name: value for name, value in ROW.items() if name != "video"}])
    with pytest.raises(JobError, match=r"clip\.video: .*gone\.mp4: does not exist"):
        footage.read(clip={"video": "gone.mp4"})
    with pytest.raises(JobError, match=r"clip\.video: .*one\.mp4: lasts 1\.00 s"):
        footage.read(clip={"video": "one.mp4"})
    with pytest.raises(EngineError, match=r"clip\.strength: 0\.05 of 12 steps is less than one"):
        footage.read(clip={"video": "two.mp4", "strength": 0.05})
    with pytest.raises(ManifestError, match=r"clip\.strength: there is no video; give clip\.video"):
        footage.read(clip={"strength": 0.5})
    footage.rows([{"variant_id": "a", "prompt": "x", "footage": "two.mp4"}])
    with pytest.raises(ManifestError, match=r"clip\.video: .*fotage.*footage"):
        footage.read(clip={"video": "{{ fotage }}"})
    with pytest.raises(JobError, match=r"clip\.strength: .*1\.5 is out of range"):
        footage.job(clip={"strength": 1.5})
    with pytest.raises(JobError, match=r"clip\.strenght: .*did you mean `strength`"):
        footage.job(clip={"strenght": 0.5})


def test_footage_is_read_once_for_all_its_rows_and_ahead_of_them(
    footage: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the largest thing that a plan reads: not again for each aspect, prompt or strength."""
    reads: list[str] = []
    read = Reader.read
    monkeypatch.setattr(
        Reader,
        "read",
        lambda self, place, most: (reads.append(Path(place).name), read(self, place, most))[1],
    )
    rows = [ROW | {"variant_id": f"{i}", "prompt": f"x{i}", "video": name} for i, name in enumerate(
        ["two.mp4", "one.mp4"] * 3
    )]  # fmt: skip
    footage.rows(rows)
    found = footage.read(clip={"aspect": ["16x9", "9x16"], "seconds": 1}, outputs=[
        {"name": "wide", "preset": "linkedin", "from": "16x9"},
        {"name": "tall", "preset": "instagram-story", "from": "9x16"},
    ])  # fmt: skip
    assert all(isinstance(item, Variant) for item in found)
    assert sorted(reads) == ["one.mp4", "two.mp4"]


def test_footage_that_has_passed_is_known_for_the_length_that_it_passed_for(footage: Case) -> None:
    """An unchanged night reads no video; a longer clip asks it anew."""
    memo = InputMemo()
    inputs = Inputs(footage.folder, memo=memo)
    place = str(footage.folder / "two.mp4")
    memo._now[place] = "v1"
    memo._asked.add(place)
    passed = inputs.video("two.mp4", 17, 8.0)
    (footage.folder / "two.mp4").unlink()
    again = Inputs(footage.folder, memo=memo)
    assert again.video("two.mp4", 17, 8.0) == passed
    with pytest.raises(InputError, match="does not exist"):
        again.video("two.mp4", 33, 8.0)
