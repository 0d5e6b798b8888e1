"""`last_image`: as `image`, and only where the checkpoint takes one."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from tests.inputs.conftest import ENGINES, SPEC, Case
from tests.security.attacks import png_header
from wanflow.errors import BadRow, EngineError, JobError
from wanflow.model import LastImage, Mode, Variant

MAY = {mode: dataclasses.replace(SPEC, last_image=LastImage.MAY) for mode in Mode}
MUST = {Mode.I2V: dataclasses.replace(SPEC, last_image=LastImage.MUST, modes=frozenset({Mode.I2V}))}
ROW: dict[str, Any] = {"variant_id": "a", "prompt": "x", "image": "a.png", "last_image": "b.png"}


@pytest.fixture
def pictures(case: Case) -> Case:
    case.picture("a.png", (8, 8))
    case.picture("b.png", (9, 8))
    return case


def test_a_row_names_its_last_frame(pictures: Case) -> None:
    """The column alone is enough; a template comes before it; an empty cell is a clip without one."""
    pictures.rows([ROW, ROW | {"variant_id": "b", "last_image": None}])
    first, second = pictures.read(MAY)
    assert isinstance(first, Variant)
    assert isinstance(second, Variant)
    clip = first.scenes[0].clip("16x9")
    assert clip.last_image is not None
    assert clip.last_image.url == str(pictures.folder / "b.png")
    assert [image.url[-5:] for image in clip.images] == ["a.png", "b.png"]
    assert second.scenes[0].clip("16x9").last_image is None
    loops = pictures.read(MAY, clip={"last_image": "{{ image }}"})
    for variant in loops:
        assert isinstance(variant, Variant)
        clip = variant.scenes[0].clip("16x9")
        assert clip.image == clip.last_image


@pytest.mark.parametrize(
    ("engines", "row", "reason"),
    [
        (MAY, {"last_image": "gone.png"}, "last_image: "),
        (MAY, {"last_image": "text.png"}, "last_image: "),
        (MAY, {"last_image": "bomb.png"}, "more than 64,000,000 pixels"),
        (MAY, {"last_image": "/etc/passwd"}, "last_image: "),
        (MAY, {"image": None}, "last_image: there is no image of the first frame"),
        (
            ENGINES,
            {},
            "last_image: pocket cannot be given its last frame; take Wan 2.2",
        ),
        (
            MUST,
            {"last_image": None},
            "last_image: is empty, and pocket goes from a first frame to a last one",
        ),
    ],
)
def test_what_is_wrong_with_it_is_its_rows_reason(
    pictures: Case, engines: Any, row: dict[str, Any], reason: str
) -> None:
    """Found before a GPU is touched, beside the rows that are well."""
    (pictures.folder / "text.png").write_text("hello")
    (pictures.folder / "bomb.png").write_bytes(png_header(50_000, 50_000))
    pictures.rows([ROW | row])
    (bad,) = pictures.read(engines)
    assert isinstance(bad, BadRow)
    assert reason in bad.reason


def test_a_still_has_no_last_frame(pictures: Case) -> None:
    pictures.rows([ROW])
    (bad,) = pictures.read(MAY, clip={"num_frames": 1})
    assert "last_image: a clip of one frame has no last one" in str(bad)


def test_what_is_wrong_with_every_row_is_told_once(pictures: Case) -> None:
    """The job's own last frame on a checkpoint that takes none, or none on one that needs it, is the job's mistake."""
    pictures.rows([{name: value for name, value in ROW.items() if name != "last_image"}])
    with pytest.raises(EngineError, match=r"clip\.last_image: pocket cannot be given its last frame"):
        pictures.read(clip={"last_image": "b.png"})
    with pytest.raises(EngineError, match=r"clip\.last_image: is empty, and pocket goes from"):
        pictures.read(MUST)
    with pytest.raises(JobError, match=r"clip\.last_image: .*gone\.png: does not exist"):
        pictures.read(MAY, clip={"last_image": "gone.png"})
