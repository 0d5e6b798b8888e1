"""Keys: what decides a result is in them, what does not is not, and no change re-renders the world by accident."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wanflow import keys
from wanflow.cascade import METHODS
from wanflow.model import (
    Branch,
    CascadeStep,
    Clip,
    ImageLayer,
    Mode,
    Music,
    Output,
    Placement,
    Sampling,
    Scene,
    Source,
    SourceVideo,
    TextLayer,
    Variant,
    Voice,
)

CLIP = Clip(
    mode=Mode.I2V,
    weights="w" * 64,
    prompt="blue waves over navy",
    negative_prompt="",
    image=Source("s3://bucket/a.png", "d" * 64),
    seed=0,
    width=160,
    height=96,
    num_frames=17,
    fps=8.0,
    sampling=Sampling(12, 4.0, 3.0, 3.0, "unipc", 0.875),
    cascade=(CascadeStep("refine", (("scale", 2), ("strength", 0.3))),),
)
OUTPUT = Output("story", "9x16", 720, 1280, 24.0)
LOGO = ImageLayer(Source("logo.png", "e" * 64), Placement("top-left", height=0.08))
HEADLINE = TextLayer("Hello Ann", Placement("lower-third"))
VARIANT = Variant("ann", 1, (Scene((("9x16", CLIP),), (LOGO, HEADLINE)),), ((OUTPUT, "ann/story.mp4"),))


@pytest.mark.parametrize(
    "change",
    [
        {"mode": Mode.T2V},
        {"weights": "x" * 64},
        {"prompt": "red waves"},
        {"negative_prompt": "text"},
        {"image": Source("s3://bucket/a.png", "f" * 64)},
        {"image": None},
        {"last_image": Source("s3://bucket/b.png", "d" * 64)},
        {"video": SourceVideo(Source("s3://bucket/b.mp4", "d" * 64), 6)},
        {"seed": 1},
        {"width": 176},
        {"height": 112},
        {"num_frames": 21},
        *({"sampling": replace(CLIP.sampling, **{name: value})} for name, value in {
            "steps": 13, "guidance": 4.5, "guidance_low": 3.5, "flow_shift": 5.0, "scheduler": "euler",
            "boundary": 0.9, "profile": "fast",
        }.items()),
    ],
    ids=str,
)  # fmt: skip
def test_whatever_decides_pixels_changes_every_stage(change: dict[str, object]) -> None:
    changed = keys.stages(replace(CLIP, **change))  # type: ignore[arg-type]
    assert all(a.key != b.key for a, b in zip(changed, keys.stages(CLIP), strict=True))


def test_a_source_video_is_its_bytes_the_steps_from_it_and_how_it_is_fitted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The frame rate says which of its frames are taken, so here it is the base's too; where it lies is nobody's."""
    source = Source("a.mp4", "d" * 64)
    clip = replace(CLIP, video=SourceVideo(source, 6))
    same = replace(clip, video=SourceVideo(Source("s3://bucket/b.mp4", source.digest), 6))
    assert keys.stages(same) == keys.stages(clip)
    others = [
        replace(clip, video=SourceVideo(Source("a.mp4", "e" * 64), 6)),
        replace(clip, video=SourceVideo(source, 7)),
        replace(clip, fps=16.0),
        replace(clip, video=None),
    ]
    assert len({keys.base_key(each) for each in [clip, *others]}) == 5
    before = keys.base_key(clip), keys.base_key(CLIP)
    monkeypatch.setattr(keys, "VERSIONS", dict(keys.VERSIONS) | {"video": 99})
    assert keys.base_key(clip) != before[0]
    assert keys.base_key(CLIP) == before[1]


def test_how_pictures_are_read_is_in_the_keys_of_what_has_some(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clips of text alone, and videos that show no picture, are not made again because pictures are read otherwise."""
    first, last = replace(CLIP, branch=Branch("waves", 6)), replace(CLIP, image=None, last_image=CLIP.image)
    text = replace(CLIP, image=None, mode=Mode.T2V)
    [scene] = VARIANT.scenes
    plain = replace(VARIANT, scenes=(replace(scene, layers=(HEADLINE,)),))
    over = replace(VARIANT, scenes=(*plain.scenes, scene))

    def found() -> list[str]:
        clips = [keys.base_key(clip) for clip in (first, last, text)]
        videos = [(over, ["a" * 64, "b" * 64]), (plain, ["a" * 64])]
        return [*clips, *(keys.assembled_key(variant, masters, OUTPUT) for variant, masters in videos)]

    before = found()
    monkeypatch.setattr(keys, "VERSIONS", dict(keys.VERSIONS) | {"picture": 99})
    assert [a == b for a, b in zip(found(), before, strict=True)] == [False, False, True, False, True]


def test_what_is_heard_is_in_the_keys_of_videos_and_in_no_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another voice is another second of ffmpeg, and no GPU; a video without sound is not made again for it."""
    [scene] = VARIANT.scenes
    voice = Voice(Source("ann.mp3", "a" * 64), 1.5)
    music = Music(Source("bed.mp3", "b" * 64), 90.0)
    heard = replace(VARIANT, scenes=(replace(scene, voice=voice),), music=music)
    others = [
        VARIANT,
        replace(heard, music=None),
        replace(heard, scenes=VARIANT.scenes),
        replace(heard, loudness=-23.0),
        *(
            replace(heard, scenes=(replace(scene, voice=replace(voice, **change)),))  # type: ignore[arg-type]
            for change in (
                {"source": Source("ann.mp3", "c" * 64)}, {"start_s": 0.5}, {"volume_db": -3.0}, {"extend": "hold"},
            )
        ),
        *(
            replace(heard, music=replace(music, **change))  # type: ignore[arg-type]
            for change in (
                {"source": Source("bed.mp3", "c" * 64)}, {"volume_db": -3.0}, {"duck_db": 0.0}, {"skip_s": 9.0},
                {"fade_in_s": 1.0}, {"fade_out_s": 0.0},
            )
        ),
    ]  # fmt: skip
    found = [keys.output_key(each, OUTPUT) for each in [heard, *others]]
    assert len(set(found)) == len(found)
    moved = replace(voice, source=Source("s3://elsewhere/ann.mp3", "a" * 64), seconds=0.0)
    same = replace(heard, scenes=(replace(scene, voice=moved),), music=replace(music, seconds=0.0))
    assert keys.output_key(same, OUTPUT) == found[0], "where it lies is nobody's, its length is its bytes'"
    monkeypatch.setattr(keys, "VERSIONS", dict(keys.VERSIONS) | {"sound": 99})
    assert keys.output_key(heard, OUTPUT) != found[0]
    assert keys.output_key(VARIANT, OUTPUT) == found[1]


def test_cascade_changes_leave_the_base_alone() -> None:
    """Tuning the upscale must not pay for the diffusion again."""
    base, step, master = keys.stages(CLIP)
    changed = replace(CLIP, cascade=(CascadeStep("refine", (("scale", 2), ("strength", 0.4))),))
    assert keys.stages(changed)[0] == base
    assert keys.stages(changed)[1].key != step.key
    assert keys.stages(changed)[2].key != master.key


def test_frame_rate_changes_only_the_master() -> None:
    old, new = keys.stages(CLIP), keys.stages(replace(CLIP, fps=16.0))
    assert [a.key == b.key for a, b in zip(old, new, strict=True)] == [True, True, False]


@pytest.mark.parametrize(
    "variant",
    [
        replace(VARIANT, variant_id="bob"),
        replace(VARIANT, row=7, priority=3, carry=(("segment", "gold"),)),
        replace(VARIANT, outputs=((OUTPUT, "elsewhere.mp4"),)),
        replace(VARIANT, scenes=(Scene((("9x16", replace(CLIP, image=Source("file:///copy.png", "d" * 64))),),
                                       (replace(LOGO, image=Source("moved.png", "e" * 64)), HEADLINE)),)),
    ],
    ids=["id", "row", "path", "url"],
)  # fmt: skip
def test_names_and_urls_stay_out(variant: Variant) -> None:
    """Moving a bucket or renaming a customer is not a new picture."""
    assert keys.output_key(variant, replace(OUTPUT, name="other")) == keys.output_key(VARIANT, OUTPUT)


def test_layers_and_format_are_in_the_outputs_key() -> None:
    scene = VARIANT.scenes[0]
    others = [
        replace(
            VARIANT,
            scenes=(
                replace(
                    scene,
                    layers=(LOGO, replace(HEADLINE, text="Bye")),
                ),
            ),
        ),
        replace(VARIANT, scenes=(replace(scene, layers=(HEADLINE, LOGO)),)),
        replace(VARIANT, scenes=(scene, scene)),
    ]
    found = {keys.output_key(variant, OUTPUT) for variant in [VARIANT, *others]}
    found |= {
        keys.output_key(VARIANT, replace(OUTPUT, crf=18)),
        keys.output_key(VARIANT, replace(OUTPUT, width=1080)),
    }
    assert len(found) == 6


def test_encoding_is_length_safe() -> None:
    """Two fields that swap a character across their border are different values."""
    assert keys.digest("ab", "c") != keys.digest("a", "bc")
    assert keys.digest(("a",), ()) != keys.digest((), ("a",))
    assert keys.digest("1") != keys.digest(1)
    assert keys.digest(None) != keys.digest("")
    assert keys.digest(True) != keys.digest(1)
    assert keys.digest(4) == keys.digest(4.0)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)


def kept(value: object) -> object:
    """The value with what the encoding tells apart and == does not: 1 and True."""
    if isinstance(value, list):
        return [kept(each) for each in value]
    if isinstance(value, dict):
        return {name: kept(each) for name, each in value.items()}
    return (isinstance(value, bool), value)


@given(VALUES, VALUES)
def test_different_values_never_encode_equally(one: object, other: object) -> None:
    """Whatever a manifest holds: two clips share a key only when they are the same clip."""
    assert (keys.canonical(one) == keys.canonical(other)) == (kept(one) == kept(other))


@given(st.lists(VALUES, max_size=4), st.lists(VALUES, max_size=4))
def test_an_encoding_ends_where_it_says(one: list[object], other: list[object]) -> None:
    """Encodings that are strung together can be told apart again: no value runs into the next."""
    strung = [b"".join(map(keys.canonical, values)) for values in (one, other)]
    assert (strung[0] == strung[1]) == (kept(one) == kept(other))


def test_every_cascade_method_has_a_version() -> None:
    assert set(METHODS) <= set(keys.VERSIONS)


def test_what_has_no_value_has_no_key() -> None:
    with pytest.raises(TypeError, match="object"):
        keys.digest(object())


BRANCHED = replace(CLIP, branch=Branch("waves", 6))


def test_a_trunk_is_shared_by_what_differs_behind_it_only() -> None:
    """A variant's own prompt, cascade and frame rate are no part of the composition; all else is."""

    def trunk(**changes: object) -> str:
        return keys.stages(replace(BRANCHED, **changes))[0].key  # type: ignore[arg-type]

    first = keys.stages(BRANCHED)[0]
    assert first.name == "trunk"
    for same in ({"prompt": "red waves"}, {"cascade": ()}, {"fps": 16.0}):
        assert trunk(**same) == first.key
    others = [
        {"mode": Mode.T2V}, {"weights": "x" * 64}, {"negative_prompt": "text"}, {"image": None}, {"seed": 1},
        {"width": 176}, {"height": 112}, {"num_frames": 21}, {"sampling": replace(CLIP.sampling, steps=13)},
        {"branch": Branch("sea", 6)}, {"branch": Branch("waves", 7)}, {"last_image": LOGO.image},
    ]  # fmt: skip
    assert len({first.key, *(trunk(**other) for other in others)}) == len(others) + 1


def test_the_base_behind_a_trunk_follows_from_it_and_the_clips_own_prompt() -> None:
    bases = [
        keys.base_key(clip)
        for clip in (
            CLIP,
            BRANCHED,
            replace(BRANCHED, prompt="red waves"),
            replace(BRANCHED, branch=Branch("sea", 6)),
            replace(BRANCHED, branch=Branch("waves", 7)),
            replace(BRANCHED, seed=1),
        )
    ]
    assert len(set(bases)) == len(bases)
    assert [stage.name for stage in keys.stages(BRANCHED)] == ["trunk", "base", "cascade-1", "master"]
