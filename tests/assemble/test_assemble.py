"""Whole assemblies with the real ffmpeg: what is asked for is what can be seen in the pixels."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.assemble.conftest import (
    FPS,
    GRAY,
    NUM_FRAMES,
    Frames,
    Studio,
    moving,
    read_frames,
    still,
    write_master,
)
from wanflow.assemble.text import undrawable
from wanflow.errors import AssembleError
from wanflow.model import BoxLayer, ImageLayer, Layer, Output, Placement, TextLayer
from wanflow.quality import check_file

RED = (225, 30, 40)
SECONDS = NUM_FRAMES / FPS


def red_logo(studio: Studio, size: tuple[int, int] = (200, 100)) -> ImageLayer:
    picture = Image.new("RGBA", size, (*RED, 255))
    return ImageLayer(studio.picture("logo.png", picture), Placement("top-left", height=0.1, margin=0.05))


def reddish(frame: Frames) -> Frames:
    """Where the logo's colour is."""
    return np.asarray(np.abs(frame.astype(int) - np.array(RED)).max(axis=-1) < 20)


def changed(frame: Frames, plain: Frames) -> Frames:
    return np.asarray(np.abs(frame.astype(int) - plain.astype(int)).max(axis=-1) > 40)


def test_file_and_poster_are_what_the_output_asks_for(studio: Studio, story: Output) -> None:
    """The promise of the whole module, checked on the decoded file."""
    made = studio.make([red_logo(studio), TextLayer("Run lighter", Placement("lower-third"))], story)
    facts = check_file(made["video"], story, [SECONDS], [studio.masters["m"]])
    assert (facts["width"], facts["height"], facts["fps"], facts["num_frames"]) == (270, 480, 8.0, NUM_FRAMES)
    with Image.open(made["poster"]) as poster:
        assert (poster.format, poster.size) == ("JPEG", (270, 480))
        frame = read_frames(made["video"])[int(NUM_FRAMES * 0.6)]
        assert np.abs(np.asarray(poster.convert("RGB")).astype(int) - frame).mean() < 4


def test_assembling_twice_gives_the_same_bytes(studio: Studio, story: Output) -> None:
    """Published files are compared by hash; a file that changes without a reason is uploaded again every night."""
    layers = [red_logo(studio), TextLayer("Run", Placement("center", fade_s=0.3))]
    output = replace(story, fps=24.0, interpolate=True)
    first, second = (studio.make(layers, output, name=name) for name in ("a", "b"))
    for kind in ("video", "poster"):
        assert (
            hashlib.sha256(first[kind].read_bytes()).digest()
            == hashlib.sha256(second[kind].read_bytes()).digest()
        )


def test_logo_is_where_it_was_put_in_its_own_colour(studio: Studio, story: Output) -> None:
    frame = read_frames(studio.make([red_logo(studio)], story)["video"])[0]
    rows, columns = np.nonzero(reddish(frame))
    assert (columns.min(), columns.max()) == pytest.approx((0.05 * 270, 0.05 * 270 + 95), abs=2)
    assert (rows.min(), rows.max()) == pytest.approx((62, 62 + 47), abs=2), "below the player's own buttons"


def test_transparent_pixels_of_a_logo_show_the_clip(studio: Studio, story: Output) -> None:
    picture = Image.new("RGBA", (100, 100), (255, 0, 255, 0))
    picture.paste((*RED, 255), (0, 0, 50, 100))
    layer = ImageLayer(studio.picture("half.png", picture), Placement("center", height=0.2))
    studio.film("still", still(72, 128))
    frame = read_frames(studio.make([layer], story, ["still"])["video"])[0].astype(int)
    middle = frame[230:250]
    assert reddish(middle[:, 95:125]).all()
    assert np.abs(middle[:, 140:180] - np.array(GRAY)).max() < 12, "no magenta bleeds in from hidden colours"


@pytest.mark.parametrize("colour", ["#1a237e", "#ff6d00", "#00897b"])
def test_brand_colours_are_exact(studio: Studio, story: Output, colour: str) -> None:
    """A brand's orange that comes out as another orange is a complaint: the matrix must be BT.709 all the way."""
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    picture = studio.picture("brand.png", Image.new("RGB", (64, 64), colour))
    layers = [
        BoxLayer(colour, Placement("bottom", height=0.25)),
        ImageLayer(picture, Placement("top", height=0.25, margin=0.0)),
    ]
    frame = read_frames(studio.make(layers, replace(story, crf=4))["video"])[0].astype(int)
    assert np.abs(frame[420:470, 20:250].mean(axis=(0, 1)) - wanted).max() < 4
    assert np.abs(frame[10:110, 90:180].mean(axis=(0, 1)) - wanted).max() < 4


def test_words_appear_where_they_belong_and_nowhere_else(studio: Studio, story: Output) -> None:
    studio.film("still", still(72, 128))
    plain = read_frames(studio.make([], story, ["still"], "plain")["video"])[4]
    said = read_frames(
        studio.make([TextLayer("Run lighter", Placement("lower-third"))], story, ["still"])["video"]
    )[4]
    rows, columns = np.nonzero(changed(said, plain))
    assert rows.size > 500
    assert rows.min() > 0.6 * 480
    assert rows.max() < 480 - 85
    assert columns.min() > 0.03 * 270
    assert columns.max() < 0.97 * 270


@pytest.mark.parametrize(
    "words",
    [
        r"{\an8}{\pos(0,0)}up",
        r"{\alpha&HFF&}hidden",
        "':drawtext=text=pwned:fontsize=99,[in]",
        r"50\% off\Nnow\hhere",
        "{\\p1}m 0 0 l 999 0 999 999{\\p0}",
        "%{eif:1:d};$(reboot)`id`",
    ],
)
def test_hostile_headlines_are_only_words(studio: Studio, story: Output, words: str) -> None:
    """A manifest is user input: whatever a cell says may be drawn, and may do nothing else."""
    studio.film("still", still(72, 128))
    plain = read_frames(studio.make([], story, ["still"], "plain")["video"])[4]
    layer = TextLayer(words, Placement("lower-third"))
    frame = read_frames(studio.make([layer], story, ["still"])["video"])[4]
    rows, _ = np.nonzero(changed(frame, plain))
    assert rows.size > 300, "it is drawn"
    assert rows.min() > 0.55 * 480, "it stays where it was put"


@pytest.mark.parametrize("words", ["קולקציה חדשה", "مجموعة جديدة", "Новинка"])
def test_packaged_scripts_are_drawn(studio: Studio, story: Output, words: str) -> None:
    studio.film("still", still(72, 128))
    frame = read_frames(studio.make([TextLayer(words, Placement("center"))], story, ["still"])["video"])[4]
    assert (frame.min(axis=-1) > 200).sum() > 300


@pytest.mark.needs_fonts
@pytest.mark.parametrize("words", ["新しいコレクション", "全新系列", "새로운 컬렉션", "สินค้าใหม่"])
def test_scripts_of_the_systems_fonts_are_drawn(studio: Studio, story: Output, words: str) -> None:
    if missing := undrawable(words):
        pytest.skip(
            f"no font on this system has {''.join(missing)}; install fonts-noto-core and fonts-noto-cjk"
        )
    studio.film("still", still(72, 128))
    frame = read_frames(studio.make([TextLayer(words, Placement("center"))], story, ["still"])["video"])[4]
    assert (frame.min(axis=-1) > 200).sum() > 300


def test_layers_come_and_go_at_their_times(studio: Studio, story: Output) -> None:
    studio.film("still", still(72, 128))
    logo = red_logo(studio)
    layers = [replace(logo, place=replace(logo.place, start_s=0.5, end_s=0.75))]
    frames = read_frames(studio.make(layers, story, ["still"])["video"])
    assert [bool(reddish(frame).any()) for frame in frames] == [4 <= i < 6 for i in range(NUM_FRAMES)]


def test_fade_comes_in_slowly(studio: Studio, story: Output) -> None:
    studio.film("still", still(72, 128))
    logo = red_logo(studio)
    frames = read_frames(
        studio.make([replace(logo, place=replace(logo.place, fade_s=0.5))], story, ["still"])["video"]
    )
    red = frames[:, 70:100, 20:100, 0].mean(axis=(1, 2)) - frames[:, 70:100, 20:100, 1].mean(axis=(1, 2))
    assert red[0] < 10
    assert red[0] < red[1] < red[2] < red[3] < red[5]
    assert red[5] == pytest.approx(red[8], abs=6)


def test_later_layers_lie_over_earlier_ones(studio: Studio, story: Output) -> None:
    logo = red_logo(studio)
    box = BoxLayer("#0000ff", Placement("top", height=0.5))
    assert not reddish(read_frames(studio.make([logo, box], story, name="under")["video"])[0]).any()
    assert reddish(read_frames(studio.make([box, logo], story, name="over")["video"])[0]).any()


def test_cover_crops_and_contain_adds_bars(studio: Studio, story: Output) -> None:
    square = still(64, 64, (200, 60, 60))
    square[:, :, :8] = (0, 200, 0)
    studio.film("square", square)
    cover = read_frames(studio.make([], story, ["square"], "cover")["video"])[0]
    contain = read_frames(studio.make([], replace(story, fit="contain"), ["square"], "contain")["video"])[0]
    assert cover.max(axis=-1).min() > 100, "no bars"
    assert not ((cover[..., 1] > 150) & (cover[..., 0] < 80)).any(), "the sides are cut"
    assert contain[:90].max() < 20, "a bar"
    assert ((contain[..., 1] > 150) & (contain[..., 0] < 80)).any(), "nothing is cut"


def test_scenes_follow_each_other_with_hard_cuts(studio: Studio, story: Output) -> None:
    for key, colour in (("one", (200, 40, 40)), ("two", (40, 200, 40)), ("three", (40, 40, 200))):
        studio.film(key, still(72, 128, colour, 5))
    frames = read_frames(studio.make([], story, ["one", "two", "three"])["video"])
    assert frames.mean(axis=(1, 2)).argmax(axis=-1).tolist() == [0] * 5 + [1] * 5 + [2] * 5


def test_same_clip_may_come_twice(studio: Studio, story: Output) -> None:
    frames = read_frames(studio.make([red_logo(studio)], story, ["m", "m"])["video"])
    assert len(frames) == 2 * NUM_FRAMES


def test_interpolation_makes_new_frames_and_keeps_the_length(studio: Studio, story: Output) -> None:
    """8 frames a second shown as 24 by repeating each one three times looks broken on a phone."""
    output = replace(story, fps=24.0)
    plain = read_frames(studio.make([], output, name="plain")["video"])
    smooth = read_frames(studio.make([], replace(output, interpolate=True), name="smooth")["video"])
    assert len(plain) == len(smooth) == 27

    def distinct(frames: Frames) -> int:
        return 1 + int((np.abs(np.diff(frames.astype(int), axis=0)).mean(axis=(1, 2, 3)) > 0.5).sum())

    assert distinct(plain) <= NUM_FRAMES
    assert distinct(smooth) >= 20


def test_phone_photo_lies_upright_and_print_colours_are_turned(studio: Studio, story: Output) -> None:
    photo = Image.new("RGB", (200, 100), (20, 160, 20))
    photo.paste(RED, (0, 0, 100, 100))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    layer = ImageLayer(
        studio.picture("photo.jpg", photo, exif=exif, quality=95), Placement("center", height=0.4)
    )
    cmyk = Image.new("CMYK", (50, 50), (0, 255, 255, 0))
    print_layer = ImageLayer(
        studio.picture("print.jpg", cmyk, quality=95), Placement("bottom", height=0.1, margin=0)
    )
    frame = read_frames(studio.make([layer, print_layer], story)["video"])[0].astype(int)
    assert frame[170, 135, 0] > 200, "red above"
    assert frame[310, 135, 1] > 120, "green below"
    assert frame[460, 135, 0] > 200
    assert frame[460, 135, 1] < 80


def test_poster_is_left_out_where_none_is_wanted(studio: Studio, story: Output) -> None:
    made = studio.make([], replace(story, poster=False))
    assert list(made) == ["video"]
    assert not (studio.folder / "out" / "poster.jpg").exists()


def broken_image(studio: Studio) -> Layer:
    path = studio.folder / "broken.png"
    Image.effect_noise((64, 64), 50).save(path)
    path.write_bytes(path.read_bytes()[:900])
    return ImageLayer(studio.file(path), Placement("center"))


def missing_image(studio: Studio) -> Layer:
    layer = red_logo(studio)
    studio.sources.clear()
    return layer


def no_glyph(studio: Studio) -> Layer:
    return TextLayer("x \U00010fff", Placement("center"))


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (broken_image, r"broken\.png cannot be decoded"),
        (missing_image, r"logo\.png is not here"),
        (no_glyph, r"no font here can draw .*U\+10FFF"),
    ],
)
def test_error_names_the_variant_the_output_and_what_to_do(
    studio: Studio, story: Output, layer, words: str
) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(AssembleError, match=rf"variant anna, output story: .*{words}"):
        studio.make([layer(studio)], story)


def test_missing_master_is_named(studio: Studio, story: Output) -> None:
    studio.masters["m"].rename(studio.folder / "gone")
    studio.clip = lambda key: write_clip(studio)  # type: ignore[method-assign]
    with pytest.raises(AssembleError, match="the master m is not here"):
        studio.make([], story)


def write_clip(studio: Studio):  # type: ignore[no-untyped-def]
    other = Studio(studio.folder)
    other.film("again", moving(72, 128))
    return Studio.clip(other, "again")


def test_broken_master_ends_with_ffmpegs_own_words(studio: Studio, story: Output) -> None:
    layer = TextLayer("secret launch date", Placement("center"))
    clip = studio.clip("m")
    studio.clip = lambda key: clip  # type: ignore[method-assign]
    studio.masters["m"].write_bytes(studio.masters["m"].read_bytes()[:300])
    with pytest.raises(AssembleError, match="ffmpeg ended with exit code") as caught:
        studio.make([layer], story)
    assert "moov atom not found" in caught.value.stderr or "Invalid data" in caught.value.stderr
    assert "secret" not in str(caught.value)


def test_work_files_are_gone_afterwards(
    studio: Studio, story: Output, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty thousand variants that leave a font and a logo each fill a node's disk by the morning."""
    import tempfile

    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    studio.make([red_logo(studio), TextLayer("x", Placement("center"))], story)
    with pytest.raises(AssembleError):
        studio.make([no_glyph(studio)], story)
    assert list(scratch.iterdir()) == []


def test_master_of_odd_size_and_rate_comes_out_right(tmp_path: Path, story: Output) -> None:
    studio = Studio(tmp_path)
    studio.masters["odd"] = write_master(tmp_path / "odd.mp4", moving(75, 131, 13), 16.0)
    made = studio.make([], replace(story, fps=30.0), ["odd"])
    check_file(made["video"], replace(story, fps=30.0), [13 / 16])
