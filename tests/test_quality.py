"""Quality: a file that is wrong is caught before it is published, whatever made it so."""

from __future__ import annotations

from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.assemble.conftest import FPS, NUM_FRAMES, Frames, Studio, moving, still
from tests.sounds import Samples, tone, write_sound
from wanflow.assemble import ffmpeg
from wanflow.assemble.layout import Area
from wanflow.errors import AssembleError
from wanflow.model import BoxLayer, ImageLayer, Output, Placement, TextLayer
from wanflow.quality import check_file, index_in_front

SECONDS = NUM_FRAMES / FPS


@pytest.fixture
def story() -> Output:
    return Output("story", "9x16", 270, 480, 8.0)


@pytest.fixture
def studio(tmp_path: Path) -> Studio:
    made = Studio(tmp_path)
    made.film("m", moving(72, 128))
    return made


def disc(width: int, height: int, middle: float = 0.5) -> Frames:
    """A disc of a third of the shorter side that goes to and fro about ``middle`` of the width, on a still ground."""
    frames = still(width, height)
    y, x = np.mgrid[:height, :width]
    side = min(width, height)
    for i, frame in enumerate(frames):
        left = middle * width + 0.1 * side * np.sin(i)
        frame[(x - left) ** 2 + (y - height / 2) ** 2 < (side / 6) ** 2] = (230, 220, 120)
    return frames


def again(path: Path, *options: str) -> Path:
    """The file encoded once more with other options."""
    target = path.with_name("again.mp4")
    ffmpeg.run(["-y", "-i", str(path), *options, str(target)], timeout_s=60)
    return target


def test_good_file_passes_with_its_facts(studio: Studio, story: Output) -> None:
    facts = check_file(studio.make([], story)["video"], story, [SECONDS], [studio.masters["m"]])
    assert (facts["width"], facts["height"], facts["num_frames"], facts["seconds"]) == (270, 480, 9, 1.125)
    assert isinstance(facts["motion"], float)
    assert facts["motion"] > 1


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"width": 272}, "it is 270x480, not 272x480"),
        ({"fps": 24.0}, "it has 8.000 frames a second, not 24"),
    ],
)
def test_wrong_shape_is_named(studio: Studio, story: Output, wrong: dict[str, float], words: str) -> None:
    video = studio.make([], story)["video"]
    with pytest.raises(AssembleError, match=words):
        check_file(video, replace(story, **wrong), [SECONDS])  # type: ignore[arg-type]


def test_video_that_ends_early_is_caught(studio: Studio, story: Output) -> None:
    """A scene lost on the way still plays; only its length tells."""
    with pytest.raises(AssembleError, match=r"it lasts 1\.125 s, not 2\.125 s"):
        check_file(studio.make([], story)["video"], story, [2.125])


@pytest.mark.parametrize(
    ("sound", "has_sound", "words"),
    [
        (None, True, "it has no sound"),
        (tone(SECONDS), False, "it has sound"),
        (tone(SECONDS, peak=0.0), True, "its sound is silent"),
        (tone(SECONDS / 2), True, r"its sound lasts 0\.5\d+ s, its pictures 1\.125 s"),
    ],
)
def test_wrong_sound_is_caught(
    studio: Studio, story: Output, sound: Samples | None, has_sound: bool, words: str
) -> None:
    """Nobody listens to twenty thousand ads before they are out."""
    video = studio.make([], story)["video"]
    if sound is not None:
        wav, plain = write_sound(studio.folder / "a.wav", sound), video
        video = plain.with_name("heard.mp4")
        parts = ["-i", str(plain), "-i", str(wav), "-c:v", "copy", "-c:a", "aac", "-movflags", "+faststart"]
        ffmpeg.run(["-y", *parts, str(video)], timeout_s=60)
    with pytest.raises(AssembleError, match=words):
        check_file(video, story, [SECONDS], has_sound=has_sound)


def test_black_video_is_caught(studio: Studio, story: Output) -> None:
    """Half-precision overflow in a decoder gives black frames and no error."""
    studio.film("black", still(72, 128, (0, 0, 0)))
    with pytest.raises(AssembleError, match="every frame is black"):
        check_file(studio.make([], story, ["black"])["video"], story, [SECONDS])


def test_dark_video_with_words_is_not_black(studio: Studio, story: Output) -> None:
    studio.film("black", still(72, 128, (0, 0, 0)))
    check_file(
        studio.make([TextLayer("Soon", Placement("center"))], story, ["black"])["video"], story, [SECONDS]
    )


def test_file_that_stands_still_while_its_clip_moves_is_caught(studio: Studio, story: Output) -> None:
    studio.film("frozen", still(72, 128))
    frozen = studio.make([], story, ["frozen"])["video"]
    check_file(frozen, story, [SECONDS], [studio.masters["frozen"]])  # a clip may stand still
    with pytest.raises(AssembleError, match="it stands still although its clip moves"):
        check_file(frozen, story, [SECONDS], [studio.masters["m"]])


def test_scene_that_stands_still_among_others_is_caught(studio: Studio, story: Output) -> None:
    """The cuts of a lesson move a lot; its second slide does not, and should."""
    studio.film("frozen", still(72, 128))
    moves, frozen = studio.masters["m"], studio.masters["frozen"]
    video = studio.make([], story, ["m", "frozen", "m"])["video"]
    check_file(video, story, [SECONDS] * 3, [moves, frozen, moves])
    with pytest.raises(AssembleError, match="scene 2 stands still although its clip moves"):
        check_file(video, story, [SECONDS] * 3, [moves, moves, moves])


def test_layers_of_one_scene_hide_nothing_of_another(studio: Studio, story: Output) -> None:
    """A slide that is all words has no verdict; the next one has."""
    studio.film("frozen", still(72, 128))
    video, moves = studio.make([], story, ["frozen", "frozen"])["video"], studio.masters["m"]
    whole = (Area(0, 0, story.width, story.height),)
    with pytest.raises(AssembleError, match="asked for: scene 2 stands still"):
        check_file(video, story, [SECONDS] * 2, [moves, moves], [whole, ()])


def test_missing_frames_of_one_scene_among_many_are_caught(studio: Studio, story: Output) -> None:
    """Each scene is rounded to whole frames, which is known to the frame and hides no loss."""
    video = studio.make([], story, ["m"] * 8)["video"]
    check_file(video, story, [SECONDS] * 8)
    with pytest.raises(AssembleError, match="it lasts"):
        check_file(video, story, [*[SECONDS] * 7, SECONDS + 3 / story.fps])


@pytest.mark.parametrize("kind", ["image", "box", "text"])
def test_a_clip_that_moves_under_a_layer_only_is_let_through(studio: Studio, kind: str) -> None:
    """A calm backdrop stirs in the middle, the product stands before it: not one variant could be published."""
    square = Output("square", "1x1", 256, 256, 8.0)
    studio.film("m", disc(128, 128))
    packshot = studio.picture("p.png", Image.new("RGB", (60, 60), (200, 40, 40)))
    layer = {
        "image": ImageLayer(packshot, Placement("center", width=0.6)),
        "box": BoxLayer("#102030", Placement("center", width=0.6, height=0.6)),
        "text": TextLayer("SALE", Placement("center", height=0.6), background="#102030", size=0.3),
    }[kind]
    made = studio.finish([layer], square)
    facts = check_file(made.files["video"], square, [SECONDS], [studio.masters["m"]], made.covered)
    assert facts["motion"] == pytest.approx(0, abs=0.2)


def test_layers_do_not_hide_that_a_file_stands_still(studio: Studio, story: Output) -> None:
    """Words that fade in are no movement of the clip."""
    studio.film("frozen", still(72, 128))
    layers = [
        BoxLayer("#c03020", Placement("bottom", width=1.0, height=0.4, margin=0.0)),
        TextLayer("Run lighter", Placement("upper-third", start_s=0.3, fade_s=0.5), background="#ffffff"),
    ]
    made = studio.finish(layers, story, ["frozen"])
    with pytest.raises(AssembleError, match="it stands still although its clip moves"):
        check_file(made.files["video"], story, [SECONDS], [studio.masters["m"]], made.covered)


def test_where_layers_leave_little_of_the_clip_there_is_no_verdict(studio: Studio, story: Output) -> None:
    studio.film("frozen", still(72, 128))
    for height, is_caught in ((0.6, True), (0.95, False)):
        box = BoxLayer("#c03020", Placement("bottom", width=1.0, height=height, margin=0.0))
        made = studio.finish([box], story, ["frozen"])
        with pytest.raises(AssembleError, match="stands still") if is_caught else nullcontext():
            check_file(made.files["video"], story, [SECONDS], [studio.masters["m"]], made.covered)


def test_movement_that_the_output_cuts_off_is_not_missed(studio: Studio) -> None:
    """A wide clip that stirs at its left edge, in a tall file."""
    tall = Output("tall", "16x9", 144, 256, 8.0)
    studio.film("m", disc(256, 144, middle=0.15))
    studio.film("frozen", disc(256, 144)[:1].repeat(NUM_FRAMES, axis=0))
    check_file(studio.make([], tall)["video"], tall, [SECONDS], [studio.masters["m"]])
    whole = replace(tall, fit="contain")
    check_file(studio.make([], whole)["video"], whole, [SECONDS], [studio.masters["m"]])
    studio.film("m", disc(256, 144))
    for output in (tall, whole):
        frozen = studio.make([], output, ["frozen"])["video"]
        with pytest.raises(AssembleError, match="it stands still although its clip moves"):
            check_file(frozen, output, [SECONDS], [studio.masters["m"]])


def test_truncated_file_is_caught(studio: Studio, story: Output) -> None:
    """A full disk leaves half a file behind."""
    video = studio.make([], story)["video"]
    whole = video.read_bytes()
    video.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(AssembleError, match=r"cannot be decoded|it lasts"):
        check_file(video, story, [SECONDS])
    video.write_bytes(whole[:100])
    with pytest.raises(AssembleError, match=r"cannot be decoded|has no picture"):
        check_file(video, story, [SECONDS])


def test_index_at_the_end_is_caught(studio: Studio, story: Output) -> None:
    video = studio.make([], story)["video"]
    assert index_in_front(video)
    late = again(video, "-c", "copy")
    assert not index_in_front(late)
    with pytest.raises(AssembleError, match="its index is at the end"):
        check_file(late, story, [SECONDS])


def test_pixels_that_phones_cannot_show_are_caught(studio: Studio, story: Output) -> None:
    video = again(studio.make([], story)["video"], "-pix_fmt", "yuv444p", "-movflags", "+faststart")
    with pytest.raises(AssembleError, match="its pixels are yuv444p, not yuv420p"):
        check_file(video, story, [SECONDS])


def test_sound_without_a_picture_is_caught(studio: Studio, story: Output, tmp_path: Path) -> None:
    path = tmp_path / "sound.mp4"
    ffmpeg.run(["-y", "-f", "lavfi", "-i", "sine=duration=1", str(path)], timeout_s=60)
    with pytest.raises(AssembleError, match="has no picture"):
        check_file(path, story, [SECONDS])


def test_small_masters_with_padded_lines_are_read_right(tmp_path: Path) -> None:
    """A decoder pads lines to its own alignment; a 64 pixel wide master once looked like 16-bit noise."""
    import av

    from wanflow import master, quality

    path = tmp_path / "master.mp4"
    frames = np.full((3, 64, 64, 3), 100, np.uint8)
    master.encode(iter([frames]), 8.0, path)
    with av.open(str(path)) as container:
        thumbs = list(quality._thumbs(container))
    assert max(int(thumb.max()) for thumb in thumbs) < 256
    assert quality._motion(thumbs) < 1


def test_a_master_is_looked_at_once_and_a_new_one_anew(
    studio: Studio, story: Output, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty thousand customers share twelve clips: decoding those for each would cost as much as the ads."""
    from wanflow import master, quality

    looked: list[Path] = []
    thumbs = quality._thumbs

    def counted(container: Any) -> Any:
        looked.append(Path(container.name))
        return thumbs(container)

    monkeypatch.setattr(quality, "_thumbs", counted)
    video, path = studio.make([], story)["video"], tmp_path / "master.mp4"
    master.encode(iter([np.full((3, 64, 64, 3), 100, np.uint8)]), 8.0, path)
    for _ in range(3):
        check_file(video, story, [SECONDS], [path])
    assert looked.count(path) == 1
    moving = np.stack([np.full((64, 64, 3), level, np.uint8) for level in (0, 250, 0)])
    master.encode(iter([moving]), 8.0, path)
    with suppress(AssembleError):  # whether the video keeps up with it is not asked here
        check_file(video, story, [SECONDS], [path])
    assert looked.count(path) == 2
