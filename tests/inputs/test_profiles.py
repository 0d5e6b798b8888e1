"""Profiles and LoRAs in a job: what they make of a clip, and what is told before anything is rendered."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.inputs.conftest import ENGINES, SPEC, Case, job_dict
from wanflow.driver import _group
from wanflow.engines.lora_names import Dimensions, check_fit, read_layers
from wanflow.errors import BadRow, EngineError, InputError, JobError
from wanflow.inputs import _MAX_BYTES, Inputs
from wanflow.job import Job
from wanflow.keys import base_key
from wanflow.manifest import Notes, read_variants
from wanflow.memo import InputMemo
from wanflow.model import Clip, EngineSpec, Mode, Sampling, Shortcuts, Variant
from wanflow.planning.changes import compare_clips
from wanflow.planning.rows import describe_clip
from wanflow.timings import work_of

TWO_EXPERTS = replace(
    SPEC,
    sampling=Sampling(40, 4.0, 3.0, 12.0, "unipc", 0.875),
    hints=(("num_blocks", 2), ("width", 8), ("ffn_width", 16)),
)
TWO = {Mode.T2V: TWO_EXPERTS, Mode.I2V: TWO_EXPERTS}
ROW = {"variant_id": "ann", "prompt": "waves"}


def lora_bytes(
    layer: str = "diffusion_model.blocks.0.self_attn.q",
    width: int = 8,
    filling: int = 0,
    names: tuple[str, str] = ("lora_down.weight", "lora_up.weight"),
) -> bytes:
    """A safetensors file with rank-1 weights of one layer."""
    shapes = zip(names, ([1, width], [width, 1]), strict=True)
    header = {
        f"{layer}.{name}": {
            "dtype": "F32",
            "shape": shape,
            "data_offsets": [4 * width * i, 4 * width * (i + 1)],
        }
        for i, (name, shape) in enumerate(shapes)
    }
    head = json.dumps(header).encode()
    return len(head).to_bytes(8, "little") + head + bytes([filling]) * (8 * width)


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def read(
    case: Case, engines: dict[Mode, EngineSpec] = TWO, memo: InputMemo | None = None, **sections: Any
) -> list[Any]:
    if not (case.folder / "rows.parquet").exists():
        case.rows([ROW])
    job = Job.from_dict(job_dict(**sections), case.folder)
    return list(read_variants(job, engines, Inputs(case.folder, memo=memo, allowed=job.allowed())))


def clip_of(case: Case, engines: dict[Mode, EngineSpec] = TWO, **sections: Any) -> Clip:
    [variant] = read(case, engines, **sections)
    assert isinstance(variant, Variant), variant
    return variant.scenes[0].clips[0][1]


def engine(**settings: Any) -> dict[str, Any]:
    return {"checkpoint": "pocket", **settings}


def test_fast_is_in_the_clip_with_every_number(case: Case) -> None:
    """Whoever reads a key's parts next year must not need today's defaults."""
    plain = clip_of(case)
    fast = clip_of(case, engine=engine(profile="fast"))
    assert fast.sampling == replace(plain.sampling, profile="fast", shortcuts=Shortcuts(0.6, 0.08, 0.08))
    given = clip_of(
        case,
        engine=engine(profile="fast", steps=30, fast={"guidance_until": 1, "cache": 0.2, "cache_low": 0}),
    )
    assert given.sampling.shortcuts == Shortcuts(1.0, 0.2, 0.0)
    assert given.sampling.steps == 30
    one = clip_of(case, ENGINES, engine=engine(profile="fast"))
    extrapolated = clip_of(case, ENGINES, engine=engine(profile="fast", fast={"taylor": 3, "taylor_low": 3}))
    assert extrapolated.sampling.shortcuts == Shortcuts(0.6, taylor=3)
    assert one.sampling.shortcuts == Shortcuts(0.6, 0.08, 0.0), (
        "one expert has no other's threshold in its key"
    )
    both = clip_of(case, engine=engine(profile="fast", fast={"batch_guidance": True}))
    assert both.sampling.shortcuts == Shortcuts(0.6, 0.08, 0.08, batch_guidance=True)
    taylor = clip_of(case, engine=engine(profile="fast", fast={"cache": 0.1, "taylor_low": 3}))
    assert taylor.sampling.shortcuts == Shortcuts(0.6, 0.1, 0.0, taylor_low=3)
    first = clip_of(case, engine=engine(profile="fast", fast={"taylor": 4, "cache_low": 0.2}))
    assert first.sampling.shortcuts == Shortcuts(0.6, 0.0, 0.2, taylor=4)
    apart = clip_of(case, engine=engine(profile="fast", fast={"batch_guidance": False}))
    assert base_key(apart) == base_key(fast)
    assert len({base_key(clip) for clip in (plain, fast, given, both, taylor, first)}) == 6
    assert "batch_guidance" in str(describe_clip(both))
    assert "batch_guidance" not in str(describe_clip(fast)), "as runs before it was there have described it"
    assert work_of(fast) == pytest.approx(0.8 * work_of(plain)), "its steps without guidance cost half"


def test_turbo_takes_four_steps_without_guidance(case: Case) -> None:
    """The schedule that the weights were distilled for, whatever the checkpoint's own is."""
    for name in ("high", "low"):
        (case.folder / f"{name}.safetensors").write_bytes(lora_bytes(filling=len(name)))
    turbo = {"high": "high.safetensors", "low": "low.safetensors", "scale": 0.9}
    clip = clip_of(case, engine=engine(profile="turbo", turbo=turbo))
    assert clip.sampling == Sampling(4, 1.0, 1.0, 5.0, "euler", 0.875, "turbo")
    assert [(lora.expert, lora.scale) for lora in clip.loras] == [("high", 0.9), ("low", 0.9)]
    assert Path(clip.loras[0].source.url).name == "high.safetensors"
    styled = clip_of(
        case, engine=engine(profile="turbo", turbo=turbo), clip={"lora": [{"url": "low.safetensors"}]}
    )
    assert [lora.expert for lora in styled.loras] == ["high", "low", "both"]
    by_mode = {"t2v": {"distilled": True}, "i2v": turbo}
    assert clip_of(case, engine=engine(profile="turbo", turbo=by_mode)).loras == ()
    refined = clip_of(case, engine=engine(profile="turbo", turbo=turbo), cascade=["refine"])
    assert dict(refined.cascade[0].params)["steps"] == 4, "not the share of forty steps"


@pytest.mark.parametrize(
    ("engines", "turbo", "message"),
    [
        (
            TWO,
            None,
            r"turbo needs distilled weights for pocket \(t2v\): set engine.turbo to {high: URL, low: URL}",
        ),
        (ENGINES, None, r"set engine.turbo to {high: URL}, a distilled LoRA, or to {distilled: true}"),
        (TWO, {"high": "a.safetensors"}, r"engine.turbo.low: pocket has two experts"),
        (TWO, {"low": "a.safetensors"}, r"engine.turbo.high: pocket has two experts"),
        (ENGINES, {"high": "a.safetensors", "low": "a.safetensors"}, r"has one expert only; give high alone"),
    ],
)
def test_turbo_without_distilled_weights_says_what_to_give(
    engines: dict[Mode, EngineSpec], turbo: dict[str, str] | None, message: str, case: Case
) -> None:
    """Four steps of ordinary weights are mush, and a whole night of it."""
    (case.folder / "a.safetensors").write_bytes(lora_bytes())
    with pytest.raises(EngineError, match=message):
        read(case, engines, engine=engine(profile="turbo", turbo=turbo))


def test_a_distilled_checkpoint_says_so_itself(case: Case) -> None:
    """In its wanflow.json, so that no job of a hundred has to."""
    spec = replace(TWO_EXPERTS, hints=(*TWO_EXPERTS.hints, ("distilled", True)))
    clip = clip_of(case, {Mode.T2V: spec, Mode.I2V: spec}, engine=engine(profile="turbo"))
    assert clip.loras == ()
    assert clip.sampling.profile == "turbo"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"fast": {"cache": 0.1}},
            "engine: has settings of fast, but the profile is exact; set profile: fast",
        ),
        (
            {"profile": "fast", "turbo": {"distilled": True}},
            "engine: has settings of turbo, but the profile is fast",
        ),
        ({"profile": "fast", "fast": {"cach": 0.1}}, "engine.fast.cach: unknown key; did you mean `cache`?"),
        (
            {"profile": "fast", "fast": {"cache": 2}},
            "engine.fast.cache: `2` is a number; it must be less than",
        ),
        (
            {"profile": "fast", "fast": {"cache_low": 0.1, "taylor_low": 3}},
            "engine.fast: has both cache_low and taylor_low; give one of them",
        ),
        (
            {"profile": "fast", "fast": {"taylor": 1}},
            "engine.fast.taylor: `1` is a number; it must be greater",
        ),
        ({"compile": True}, "engine: has compile: true, but the profile exact is never compiled"),
        ({"profile": "turbo", "turbo": {}}, "engine.turbo: names no weights; give {high: URL, low: URL}"),
    ],
)
def test_settings_that_would_not_count_are_errors(settings: dict[str, Any], message: str, case: Case) -> None:
    """A threshold that is written and not heeded is found out by eye, weeks later."""
    with pytest.raises(JobError) as raised:
        read(case, engine=engine(**settings))
    assert message in str(raised.value)


def test_a_lora_a_row(case: Case) -> None:
    """A style a customer: empty for most; and rows of one style lie together for the replicas."""
    for name in ("ink", "oil"):
        (case.folder / f"{name}.safetensors").write_bytes(lora_bytes(filling=len(name) + ord(name[0])))
    rows = [
        ("a", "ink.safetensors", 0.5),
        ("b", "", None),
        ("c", "oil.safetensors", 0.5),
        ("d", "ink.safetensors", 0.5),
    ]
    case.rows([ROW | {"variant_id": n, "style": style, "strength": s} for n, style, s in rows])
    lora = [{"url": "{{ style }}", "scale": "{{ strength }}", "expert": "low"}]
    job = Job.from_dict(job_dict(clip={"lora": lora}), case.folder)
    notes = Notes()
    variants = list(read_variants(job, TWO, Inputs(case.folder), notes=notes))
    clips = [variant.scenes[0].clips[0][1] for variant in variants if isinstance(variant, Variant)]
    assert [[(x.scale, x.expert) for x in clip.loras] for clip in clips] == [
        [(0.5, "low")], [], [(0.5, "low")], [(0.5, "low")]
    ]  # fmt: skip
    assert clips[0] == clips[3]
    assert len({base_key(clip) for clip in clips}) == len({_group(clip) for clip in clips}) == 3
    assert ("style", "clip.lora", 3, 2) in list(notes.multipliers()), "the plan says which column costs"


def test_a_lora_swapped_under_its_name_is_another(case: Case) -> None:
    """The trainer overwrites `latest.safetensors` every evening."""
    file = case.folder / "latest.safetensors"
    clips = []
    for filling in (1, 2):
        file.write_bytes(lora_bytes(filling=filling))
        clips.append(clip_of(case, clip={"lora": [{"url": "latest.safetensors"}]}))
    assert base_key(clips[0]) != base_key(clips[1])
    [change] = compare_clips(describe_clip(clips[0]), describe_clip(clips[1]))
    assert str(change).startswith("lora: latest.safetensors (")
    assert not list(compare_clips(describe_clip(clips[0]), describe_clip(clips[0])))
    assert "loras" not in describe_clip(clip_of(case))


def test_an_unchanged_lora_is_not_read_again(case: Case) -> None:
    """0.6 GB each, from an object store, every night."""
    file = case.folder / "style.safetensors"
    file.write_bytes(lora_bytes())
    memo = InputMemo("rules")
    first = read(case, memo=memo, clip={"lora": [{"url": "style.safetensors"}]})
    file.chmod(0)
    if file.stat().st_mode & 0o777 == 0:
        again = read(case, memo=memo, clip={"lora": [{"url": "style.safetensors"}]})
        assert again == first
    wider = replace(TWO_EXPERTS, hints=(("num_blocks", 2), ("width", 16), ("ffn_width", 16)))
    file.chmod(0o644)
    engines = {Mode.T2V: wider, Mode.I2V: wider}
    with pytest.raises(
        JobError, match="is made for a model of another size"
    ):  # it was good for another one only
        read(case, engines, memo=memo, clip={"lora": [{"url": "style.safetensors"}]})


def test_one_expert_takes_a_lora_for_the_high_or_for_both(case: Case) -> None:
    """It is both; what is meant for the other expert is another model's."""
    (case.folder / "a.safetensors").write_bytes(lora_bytes())
    keys = set()
    for expert in ("both", "high"):
        clip = clip_of(case, ENGINES, clip={"lora": [{"url": "a.safetensors", "expert": expert}]})
        keys.add(base_key(clip))
    assert len(keys) == 1
    with pytest.raises(
        JobError, match=r"clip\.lora 1: is for the low-noise expert, but the checkpoint has one"
    ):
        clip_of(case, ENGINES, clip={"lora": [{"url": "a.safetensors", "expert": "low"}]})


GOOD = lora_bytes()
KEYS = (
    "blocks.0.attn1.to_q.lora_A.weight",
    "__metadata__",
    "dtype",
    "shape",
    "data_offsets",
    "lora_adapter_metadata",
)


def _with_header(header: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header


HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is an empty file"),
    "a pickle": (b"PK\x03\x04" + bytes(200), "is no safetensors file"),
    "cut off": (GOOD[:-1], "is cut off, or has bytes that belong to nothing"),
    "with a tail": (GOOD + b"#!/bin/sh", "is cut off, or has bytes that belong to nothing"),
    "header beyond the end": ((10**9).to_bytes(8, "little") + bytes(50), "is no safetensors file"),
    "header that is no JSON": ((8).to_bytes(8, "little") + b"{{{{{{{{", "has a header that is not understood"),
    "header of nested lists": (
        (100_000).to_bytes(8, "little") + b"[" * 100_000, "has a header that is not understood"
    ),
    "negative shape": (GOOD.replace(b"[1, 8]", b"[-1,8]"), "has a header that is not understood"),
    "shape that lies": (GOOD.replace(b"[1, 8]", b"[9, 8]"), "has a header that is not understood"),
    "a whole model": (lora_bytes(names=("weight", "other")), "is no low-rank weight of a Wan transformer"),
    "another model": (lora_bytes("lora_unet_down_blocks_0_attn1_to_q"), "is no low-rank weight of a Wan transformer"),
    "another layer": (lora_bytes("blocks.9.self_attn.q"), "blocks.9.attn1.to_q, which this checkpoint has not"),
    "another size": (lora_bytes(width=12), "is made for a model of another size: blocks.0.attn1.to_q is 8 x 8 here"),
    "a bias of another size": (
        _with_header(
            b'{"blocks.0.self_attn.q.diff_b":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}'
        ) + bytes(16),
        "is made for a model of another size",
    ),
    "half of it": (lora_bytes(names=("lora_down.weight", "alpha")), "has half of the weights"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_or_broken_lora_is_a_bad_row(name: str, case: Case) -> None:
    """One customer's upload; the others' clips are rendered, and nothing of it is run or allocated."""
    data, message = HOSTILE[name]
    (case.folder / "bad.safetensors").write_bytes(data)
    (case.folder / "good.safetensors").write_bytes(GOOD)
    case.rows(
        [
            ROW | {"style": "bad.safetensors"},
            {"variant_id": "bob", "prompt": "waves", "style": "good.safetensors"},
        ]
    )
    bad, good = read(case, clip={"lora": [{"url": "{{ style }}"}]})
    assert isinstance(bad, BadRow)
    assert (bad.row, bad.reason[:7]) == (1, "lora 1:")
    assert message in bad.reason
    assert isinstance(good, Variant)


def test_a_lora_passes_the_door_of_all_inputs(
    case: Case, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row may not have the planner read what lies outside, nor fill its memory."""
    outside = tmp_path_factory.mktemp("outside") / "a.safetensors"
    outside.write_bytes(GOOD)
    case.rows([ROW | {"style": str(outside)}, ROW | {"variant_id": "bob", "style": "a.safetensors"}])
    (case.folder / "a.safetensors").write_bytes(GOOD)
    monkeypatch.setitem(_MAX_BYTES, "lora", 100)
    elsewhere, large = read(case, clip={"lora": [{"url": "{{ style }}"}]})
    assert "is outside of the folders that inputs may come from" in elsewhere.reason
    assert "is larger than the 100 bytes allowed" in large.reason


@pytest.mark.parametrize(
    ("scale", "message"), [("high", "is not a number"), ("9", "9 is out of range"), ("", "is not a number")]
)
def test_a_rows_scale_is_a_sane_number(scale: str, message: str, case: Case) -> None:
    """A strength of 80 where 0.8 was meant is noise."""
    (case.folder / "a.safetensors").write_bytes(GOOD)
    case.rows([ROW | {"strength": scale}])
    [bad] = read(case, clip={"lora": [{"url": "a.safetensors", "scale": "{{ strength }}"}]})
    assert bad.reason.startswith("lora 1:")
    assert message in bad.reason


def test_a_lora_of_no_strength_is_none(case: Case) -> None:
    """Its clip is the plain one, and shared with it."""
    (case.folder / "a.safetensors").write_bytes(GOOD)
    assert clip_of(case, clip={"lora": [{"url": "a.safetensors", "scale": 0}]}) == clip_of(case)


def test_a_template_that_names_no_column_is_told_with_its_place(case: Case) -> None:
    """`clip.lora.0.url`, with the column that was meant."""
    from wanflow.errors import ManifestError

    case.rows([ROW | {"style": ""}])
    with pytest.raises(ManifestError, match=r"clip\.lora\.0\.url.*stile.*style"):
        read(case, clip={"lora": [{"url": "{{ stile }}"}]})


@given(
    st.one_of(
        st.binary(max_size=300),
        st.tuples(st.integers(0, len(GOOD) - 1), st.binary(min_size=1, max_size=4)).map(
            lambda edit: GOOD[: edit[0]] + edit[1] + GOOD[edit[0] + len(edit[1]) :]
        ),
        st.recursive(
            st.none() | st.integers() | st.floats() | st.text(max_size=20),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=9), inner, max_size=4)
            ),
        ).map(lambda value: _with_header(json.dumps(value).encode())),
    )
)
def test_any_bytes_are_low_rank_weights_or_a_clear_error(data: bytes) -> None:
    """Whatever a customer uploads: one kind of error, and no other."""
    try:
        layers, _ = read_layers(data, len(data))
        check_fit(layers, Dimensions(2, 8, 16))
    except InputError as error:
        layers, told = {}, str(error)
    else:
        told = ""
    assert bool(layers) != bool(told)
