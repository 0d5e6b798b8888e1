"""From rows to Variants: what a row's values decide, what the job decides, and what is shared."""

from __future__ import annotations

import dataclasses
import math
from datetime import UTC, date, datetime, time
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.inputs.conftest import ENGINES, SPEC, Case
from wanflow.errors import BadRow, EngineError, JobError, ManifestError
from wanflow.inputs import Inputs
from wanflow.manifest import Notes, clean_prompt, read_variants, template_columns
from wanflow.model import BoxLayer, Branch, CascadeStep, ImageLayer, Mode, TextLayer, Variant

BOTH = [{"name": "tall", "preset": "instagram-story"}, {"name": "wide", "preset": "linkedin"}]


def test_a_row_becomes_a_variant_with_everything_resolved(case: Case) -> None:
    """Keys, scheduler and ffmpeg see numbers and bytes only; nothing is left to be looked up later."""
    case.picture("pack.png", (10, 10))
    case.picture("logo.png", (20, 10))
    case.rows(
        [
            {
                "variant_id": 7,
                "product": "Bottle",
                "pack": "pack.png",
                "headline": "Hi",
                "tint": "#FA0",
                "tier": "gold",
            }
        ]
    )
    (variant,) = case.variants(
        clip={
            "prompt": "a {{ product|lower }}", "negative_prompt": "blur", "image": "{{ pack }}",
            "aspect": ["9x16", "16x9"], "seconds": 2,
        },
        cascade=[{"refine": {"scale": 2, "strength": 0.3}}],
        layers=[
            {"box": {"color": "{{ tint }}", "height": "20%", "at": "bottom"}},
            {"image": {"url": "logo.png", "at": "top-left", "height": "8%", "margin": "3%", "opacity": 0.5}},
            {"text": {"value": "{{ headline }}!", "style": "cta", "size": "6%", "start": 0.5, "end": 1.5, "fade": 0.2}},
        ],
        outputs=BOTH,
        publish={"url": "out", "path": "{{ tier }}/{{ variant_id }}-{{ output }}.mp4", "carry": ["tier"]},
        engine={"checkpoint": "pocket", "steps": 4},
    )  # fmt: skip
    assert (variant.variant_id, variant.row, variant.priority, variant.carry) == (
        "7",
        1,
        0,
        (("tier", "gold"),),
    )
    assert [(o.name, o.aspect, o.width, path) for o, path in variant.outputs] == [
        ("tall", "9x16", 1080, "gold/7-tall.mp4"),
        ("wide", "16x9", 1920, "gold/7-wide.mp4"),
    ]
    (scene,) = variant.scenes
    clip = scene.clip("9x16")
    assert (clip.mode, clip.prompt, clip.negative_prompt, clip.seed) == (Mode.I2V, "a bottle", "blur", 0)
    assert (clip.width, clip.height, clip.num_frames, clip.fps) == (96, 160, 17, 8.0)
    assert (scene.clip("16x9").width, scene.clip("16x9").height) == (160, 96)
    assert clip.image is not None
    assert clip.image.url == str(case.folder / "pack.png")
    assert clip.sampling == dataclasses.replace(SPEC.sampling, steps=4)
    assert [step.method for step in clip.cascade] == ["refine"]
    assert dict(clip.cascade[0].params)["strength"] == 0.3
    box, image, text = scene.layers
    assert isinstance(box, BoxLayer)
    assert (box.color, box.place.height) == ("#ffaa00", 0.2)
    assert isinstance(image, ImageLayer)
    assert (image.place.at, image.place.margin, image.place.opacity) == ("top-left", 0.03, 0.5)
    assert isinstance(text, TextLayer)
    assert (text.text, text.style, text.size) == ("Hi!", "cta", 0.06)
    assert (text.place.start_s, text.place.end_s, text.place.fade_s) == (0.5, 1.5, 0.2)


def test_customers_who_differ_in_headline_and_logo_share_one_clip(case: Case) -> None:
    """The promise that pays for everything: a thousand customers, one diffusion run."""
    case.picture("a.png", (4, 4))
    case.picture("b.png", (5, 4))
    rows = [
        {"variant_id": i, "prompt": "waves", "headline": f"Hi {i}", "logo": "ab"[i % 2] + ".png"}
        for i in range(50)
    ]
    case.rows(rows)
    variants = case.variants(layers=[{"image": {"url": "{{ logo }}"}}, {"text": {"value": "{{ headline }}"}}])
    assert len({clip for v in variants for _, clip in v.scenes[0].clips}) == 1
    assert len({v.scenes[0].layers for v in variants}) == 50


def test_text_and_image_rows_mix(case: Case) -> None:
    """Where a product has no packshot yet, its clip is made from words."""
    case.picture("a.png")
    case.rows(
        [
            {"variant_id": "a", "prompt": "x", "image": "a.png"},
            {"variant_id": "b", "prompt": "x", "image": None},
        ]
    )
    assert [v.scenes[0].clip("16x9").mode for v in case.variants()] == [Mode.I2V, Mode.T2V]


def test_a_rows_own_seed_aspect_and_seconds_come_first(case: Case) -> None:
    """One manifest, one job, and a few rows that need something else."""
    case.rows([
        {"variant_id": "a", "prompt": "x", "seed": 5, "aspect": "9x16, 16x9", "seconds": 1.0},
        {"variant_id": "b", "prompt": "x", "seed": None, "aspect": None, "seconds": None},
    ])  # fmt: skip
    a, b = case.variants(clip={"aspect": "9x16", "seed": 3, "seconds": 2}, outputs=BOTH)
    assert [aspect for aspect, _ in a.scenes[0].clips] == ["9x16", "16x9"]
    assert (a.scenes[0].clip("9x16").seed, a.scenes[0].clip("9x16").num_frames) == (5, 9)
    assert [aspect for aspect, _ in b.scenes[0].clips] == ["9x16"]
    assert (b.scenes[0].clip("9x16").seed, b.scenes[0].clip("9x16").num_frames) == (3, 17)


def test_an_absent_seed_is_the_jobs_and_never_random(case: Case) -> None:
    """Two nights, two machines, one result: nothing of a clip comes from chance or from names."""
    case.rows([{"variant_id": name, "prompt": "x"} for name in "abc"])
    first, second = case.variants(), case.variants()
    assert first == second
    assert {v.scenes[0].clip("16x9").seed for v in first} == {0}


def test_numbers_of_the_job_may_come_from_columns(case: Case) -> None:
    """A course catalogue has its own names for things."""
    case.rows(
        [
            {
                "variant_id": "a",
                "prompt": "x",
                "n": 7,
                "format": "9x16",
                "len": 1.0,
                "share": "12%",
                "pos": "left",
            }
        ]
    )
    (variant,) = case.variants(
        clip={"seed": "{{ n }}", "aspect": "{{ format }}", "seconds": "{{ len }}"},
        layers=[{"text": {"value": "x", "size": "{{ share }}", "at": "{{ pos }}"}}],
        outputs=BOTH,
    )
    clip = variant.scenes[0].clip("9x16")
    assert (clip.seed, clip.num_frames) == (7, 9)
    (text,) = variant.scenes[0].layers
    assert isinstance(text, TextLayer)
    assert (text.size, text.place.at) == (0.12, "left")


def test_lists_of_aspects_are_taken(case: Case) -> None:
    """Parquet can say it properly."""
    case.rows([{"variant_id": "a", "prompt": "x", "aspect": ["16x9", "9x16"]}])
    (variant,) = case.variants(outputs=BOTH)
    assert [aspect for aspect, _ in variant.scenes[0].clips] == ["9x16", "16x9"]


def test_only_aspects_that_an_output_uses_become_clips(case: Case) -> None:
    """An aspect in the manifest that nobody publishes must not cost GPU time."""
    case.rows([{"variant_id": "a", "prompt": "x", "aspect": "9x16,1x1,16x9"}])
    (variant,) = case.variants()
    assert [aspect for aspect, _ in variant.scenes[0].clips] == ["16x9"]
    assert [o.name for o, _ in variant.outputs] == ["wide"]


def test_an_output_without_aspect_takes_the_rows_only_one(case: Case) -> None:
    """``preview`` fits whatever is there, as long as there is one thing."""
    case.rows(
        [
            {"variant_id": "a", "prompt": "x", "aspect": "9x16"},
            {"variant_id": "b", "prompt": "x", "aspect": "9x16,1x1"},
        ]
    )
    good, bad = case.read(outputs=[{"name": "small", "preset": "preview"}])
    assert isinstance(good, Variant)
    assert good.outputs[0][0].aspect == "9x16"
    assert "say which of 9x16, 1x1 it is made from" in str(bad)


def test_missing_values_leave_their_layer_out(case: Case) -> None:
    """A customer without a logo gets a video without a logo, not an error at four in the morning."""
    case.rows(pa.table({
        "variant_id": ["a"], "prompt": ["x"], "logo": pa.nulls(1, pa.string()), "headline": [""],
        "tint": pa.array([math.nan]),
        "style": pa.nulls(1, pa.string()),
    }))  # fmt: skip
    (variant,) = case.variants(
        layers=[
            {"image": {"url": "{{ logo }}"}},
            {"text": {"value": "{{ headline }}"}},
            {"box": {"color": "{{ tint }}"}},
            {
                "text": {
                    "value": "stays",
                    "style": "{{ style }}",
                    "color": "{{ tint }}",
                    "width": "{{ logo }}",
                }
            },
        ]
    )
    (text,) = variant.scenes[0].layers
    assert isinstance(text, TextLayer)
    assert (text.text, text.style, text.color, text.place.width) == ("stays", "headline", None, None)


def test_user_text_is_text(case: Case) -> None:
    """Braces, filters and HTML in a headline are what the customer typed."""
    words = "{{ 7*7 }} <b>{% x %} & 'quotes' \\N {\\b1} %{n}"
    case.rows([{"variant_id": "a", "prompt": "x", "headline": words}])
    (variant,) = case.variants(layers=[{"text": {"value": "{{ headline }}"}}])
    (text,) = variant.scenes[0].layers
    assert isinstance(text, TextLayer)
    assert text.text == words


def test_matrix_multiplies_variants_and_templates_see_its_values(case: Case) -> None:
    """Three languages of one row are three files, told apart by their path."""
    case.rows([{"variant_id": "a", "prompt": "x"}])
    variants = case.variants(
        matrix={"locale": ["de", "no"], "seed": [1, 2]},
        layers=[{"text": {"value": "{{ locale }}"}}],
        publish={"url": "out", "path": "{{ variant_id }}/{{ locale }}-{{ seed }}.mp4"},
    )
    assert [v.outputs[0][1] for v in variants] == ["a/de-1.mp4", "a/de-2.mp4", "a/no-1.mp4", "a/no-2.mp4"]
    assert {v.variant_id for v in variants} == {"a"}
    assert [v.scenes[0].clip("16x9").seed for v in variants] == [1, 2, 1, 2]


def test_only_and_limit_choose_rows(case: Case) -> None:
    """Ten before twenty thousand."""
    case.rows([{"variant_id": i, "prompt": "x", "tier": "ab"[i % 2]} for i in range(100)])
    found = case.read(
        manifest={"url": "rows.parquet", "where": "variant_id >= 10"}, only="tier = 'b'", limit=3
    )
    assert [v.variant_id for v in found] == ["11", "13", "15"]
    assert [v.row for v in found] == [12, 14, 16]


def test_results_repeat_what_the_video_shows(case: Case) -> None:
    """The price in results.parquet is joined with the one in the path."""
    at = datetime(2026, 1, 31, 18, 30, tzinfo=UTC)
    carry = ["price", "at", "day", "opens", "tags", "n", "none"]
    case.rows(
        pa.table({
            "variant_id": ["a"], "prompt": ["x"], "price": pa.array(["19.9000"]).cast(pa.decimal128(10, 4)),
            "at": pa.array([at], pa.timestamp("us", "Europe/Berlin")), "day": [date(2026, 1, 31)],
            "opens": [time(9, 30)], "tags": [["x"]], "n": [3], "none": pa.array([None], pa.date32()),
        })
    )  # fmt: skip
    path = "{{ price }} {{ at }} {{ day }} {{ opens }}.mp4"
    (variant,) = case.variants(publish={"url": "out", "path": path, "carry": carry})
    shown = ["19.90", "2026-01-31 19:30:00", "2026-01-31", "09:30:00"]
    assert variant.outputs[0][1] == f"{' '.join(shown)}.mp4"
    assert [value for _, value in variant.carry] == [*shown, "['x']", 3, None]


def test_decimals_are_numbers_where_numbers_belong(case: Case) -> None:
    """A number of Snowflake or Oracle is a decimal, whole or not."""
    table = pa.table({"variant_id": pa.array([7, 10**20], pa.decimal128(38, 0)), "prompt": ["x", "x"]})
    for name, kind in (("seed", (38, 0)), ("seconds", (10, 2)), ("priority", (12, 2))):
        table = table.append_column(name, pa.array(["1", None]).cast(pa.decimal128(*kind)))
    case.rows(table)
    a, b = case.variants()
    assert (a.variant_id, b.variant_id) == ("7", "100000000000000000000")
    assert (a.scenes[0].clip("16x9").seed, a.scenes[0].clip("16x9").num_frames, a.priority) == (1, 9, 1)
    assert (b.scenes[0].clip("16x9").seed, b.priority) == (0, 0)
    case.rows(table.set_column(2, "seed", pa.array(["1.5", None]).cast(pa.decimal128(10, 1))))
    (bad,) = case.bad()
    assert str(bad) == "row 1 (7): seed: `1.5` is not a whole number"


def test_a_list_or_struct_in_a_template_is_one_error_and_aspects_are_none(case: Case) -> None:
    """``['a', 'b']`` is on no picture, and twenty thousand rows of it are one mistake."""
    row = {"variant_id": "a", "prompt": "x", "tags": ["a", "b"], "shop": {"city": "Ulm"}, "aspect": ["16x9"]}
    case.rows([row] * 3)
    with pytest.raises(ManifestError) as caught:
        case.read(
            clip={"prompt": "{{ prompt }} {{ tags|upper }} {{ aspect }}"},
            layers=[{"text": {"value": "{{ shop }} {{ aspect }}"}}],
            publish={"url": "o", "path": "{{ tags }}/{{ variant_id }}-{{ aspect }}.mp4"},
        )
    assert caught.value.bad_rows == ()
    assert [line.strip().split(" has several")[0] for line in str(caught.value).splitlines()[1:]] == [
        "clip.prompt: the column `tags`",
        "layers.0.text.value: the column `aspect`",
        "layers.0.text.value: the column `shop`",
        "publish.path: the column `tags`",
    ]
    case.rows([row])
    (variant,) = case.variants(
        clip={"prompt": "{{ tags|join(', ') }} in {{ shop.city }}"},
        layers=[{"text": {"value": "{{ tags[0] }}"}}],
    )
    assert variant.scenes[0].clip("16x9").prompt == "a, b in Ulm"


def test_priority_is_a_whole_number_or_nothing(case: Case) -> None:
    """pandas turns a column with gaps into floats."""
    case.rows(pa.table({"variant_id": ["a", "b"], "prompt": ["x", "x"], "priority": pa.array([3.0, None])}))
    assert [v.priority for v in case.variants()] == [3, 0]


def test_explicit_sizes_and_frames_are_taken_when_the_grid_has_them(case: Case) -> None:
    """Whoever knows the model may say pixels."""
    case.rows([{"variant_id": "a", "prompt": "x"}])
    (variant,) = case.variants(
        clip={"aspect": ["9x16", "16x9"], "size": {"16x9": "192x112"}, "num_frames": 13}, outputs=BOTH
    )
    wide, tall = variant.scenes[0].clip("16x9"), variant.scenes[0].clip("9x16")
    assert (wide.width, wide.height, wide.num_frames) == (192, 112, 13)
    assert (tall.width, tall.height) == (96, 160)


def test_sharing_names_the_column_that_multiplies_clips(case: Case) -> None:
    """``first_name`` in the prompt: the mistake that costs a cluster a night."""
    case.rows([{"variant_id": i, "first_name": f"n{i}", "product": f"p{i % 4}"} for i in range(40)])
    job = case.job(
        clip={"prompt": "{{ product }} for {{ first_name }}", "aspect": ["9x16", "16x9"]},
        layers=[{"text": {"value": "{{ variant_id }}"}}],
        outputs=BOTH,
    )
    notes = Notes()
    assert len(list(read_variants(job, ENGINES, Inputs(case.folder), notes=notes))) == 40
    assert list(notes.multipliers()) == [("first_name", "clip.prompt", 80, 8)]
    assert template_columns(job)["clip.prompt"] == {"first_name", "product"}
    assert template_columns(job)["clip.seed"] == {"seed"}


def test_empty_cells_that_leave_a_gap_in_a_sentence_are_counted(case: Case) -> None:
    """ "Hello , your summer": nobody looks at 20,000 ads before the customers do."""
    names = ["Ann", "", None, "Bob"]
    case.rows(
        [{"variant_id": i, "name": name, "product": "mug", "claim": ""} for i, name in enumerate(names)]
    )
    job = case.job(
        clip={
            "prompt": "a {{ product }}{% if claim %} of {{ claim }}{% endif %}",
            "negative_prompt": "{{ claim }}",
        },
        layers=[
            {"text": {"value": "Hello {{ name | upper }}, your summer"}},
            {"text": {"value": "{{ claim }}"}},
            {"text": {"value": "for {{ name | default('you', true) }}"}},
        ],
    )
    notes = Notes()
    assert len(list(read_variants(job, ENGINES, Inputs(case.folder), notes=notes))) == 4
    assert list(notes.gaps()) == [("name", "layers.0.text.value", 2, 2)]


def test_a_row_that_the_matrix_repeats_has_one_gap(case: Case) -> None:
    """Three regions are no three mistakes."""
    case.rows([{"variant_id": i, "name": name} for i, name in enumerate(["", "Ann", ""])])
    job = case.job(
        clip={"prompt": "a mug for {{ name }} in {{ region }}"},
        matrix={"region": ["eu", "us"]},
    )
    notes = Notes()
    list(read_variants(job, ENGINES, Inputs(case.folder), notes=notes))
    assert list(notes.gaps()) == [("name", "clip.prompt", 2, 1)]


@pytest.mark.parametrize(
    ("aspects", "asked", "unmade"),
    [
        (["9x16", None], {}, (("wide", "16x9"),)),
        (["9x16", "16x9"], {}, ()),
        (["9x16", "9x16,16x9"], {}, ()),
        (["9x16", "16x9"], {"only": "variant_id = 0"}, ()),
        (["9x16", "16x9"], {"only": "variant_id = 9"}, ()),
        (["9x16", "16x9"], {"limit": 1}, ()),
    ],
)
def test_an_output_that_no_row_has_is_noted(
    case: Case, aspects: list[str | None], asked: dict[str, Any], unmade: tuple[tuple[str, str], ...]
) -> None:
    """One aspect a row and one file a row is what many want; a file that nobody ever gets is not. Of rows that were not
    read nobody knows.
    """
    case.rows([{"variant_id": i, "prompt": "x", "aspect": aspect} for i, aspect in enumerate(aspects)])
    job = case.job(clip={"aspect": "9x16"}, outputs=BOTH)
    notes = Notes()
    list(read_variants(job, ENGINES, Inputs(case.folder), notes=notes, **asked))
    assert notes.unmade == unmade


def test_a_layer_may_begin_late_and_end_after_its_clip(case: Case) -> None:
    """It is there for as long as the clip lasts; a job that says 3600 for "to the end" is right."""
    case.rows([{"variant_id": "a", "prompt": "x"}])
    (variant,) = case.variants(layers=[{"text": {"value": "x", "start": 2.1, "end": 3600}}])
    assert len(variant.scenes[0].layers) == 1


def test_a_layer_that_one_of_the_jobs_engines_has_time_for_is_the_rows_matter(case: Case) -> None:
    """Clips of images last longer here than those of words."""
    case.picture("a.png")
    case.rows([{"variant_id": "a", "prompt": "x", "image": "a.png"}, {"variant_id": "b", "prompt": "x"}])
    engines = {Mode.T2V: SPEC, Mode.I2V: dataclasses.replace(SPEC, num_frames=33, weights="v" * 8)}
    good, bad = case.read(engines=engines, layers=[{"text": {"value": "x", "start": 3}}])
    assert isinstance(good, Variant)
    assert "layers.0.text.start: 3 s is not before the end of the clip (2.125 s)" in str(bad)


def test_the_prompt_is_cleaned_as_the_pipelines_clean_it() -> None:
    """Mojibake and entities reach the text encoder as the model was trained to see them."""
    assert clean_prompt("  caf\u00c3\u00a9 &amp;amp;  on\n\ta\u00a0table ") == "caf\u00e9 & on a table"


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60) | st.text("&amp;lt#x20 \t\n\u00a0\u3000\x1c\u200b\u00c3\u00a9", max_size=30))
def test_cleaning_equals_diffusers(text: str) -> None:
    """Two clients of one model must not see two prompts. The reference is WanPipeline's prompt_clean, written out."""
    import html
    import re

    import ftfy

    basic = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    assert clean_prompt(text) == re.sub(r"\s+", " ", basic).strip()


def test_a_checkpoint_of_one_mode_refuses_only_the_rows_that_need_the_other(case: Case) -> None:
    """A T2V-only cluster renders the rows it can, and says which it cannot."""
    case.picture("a.png")
    case.rows(
        [
            {"variant_id": "a", "prompt": "x", "image": "a.png"},
            {"variant_id": "b", "prompt": "x", "image": ""},
        ]
    )
    t2v = dataclasses.replace(SPEC, modes=frozenset({Mode.T2V}))
    bad, good = case.read(engines={Mode.T2V: t2v, Mode.I2V: t2v})
    assert isinstance(good, Variant)
    assert str(bad).startswith(
        "row 1 (a): the row has an image, so it needs a checkpoint for i2v (there is t2v: pocket)"
    )
    assert "set engine.checkpoint.i2v, or leave the image empty" in str(bad)


def test_a_cascade_that_the_engine_cannot_do_ends_before_the_rows(case: Case) -> None:
    """A strength of 3 is the job's mistake, not every row's."""
    case.rows([{"variant_id": "a", "prompt": "x"}])
    with pytest.raises(EngineError, match="strength"):
        case.read(cascade=[{"refine": {"strength": 3}}])
    with pytest.raises(EngineError, match="did you mean strength"):
        case.read(cascade=[{"refine": {"strenght": 0.3}}])
    assert CascadeStep("refine") != case.variants(cascade=["refine"])[0].scenes[0].clip("16x9").cascade[0]


@pytest.mark.parametrize(
    ("sections", "error", "words"),
    [
        ({"clip": {"image": "gone.png"}}, JobError, r"clip\.image: .*gone\.png: does not exist"),
        ({"layers": [{"image": {"url": "gone.png"}}]}, JobError, r"layers\.0\.image\.url: .*does not exist"),
        (
            {"layers": [{"text": {"value": "a", "font": "gone.ttf"}}]},
            JobError,
            r"layers\.0\.text\.font: .*does not exist",
        ),
        ({"clip": {"size": "100x100"}}, EngineError, "clip: aspect 16x9: size 100x100 is off the grid"),
        ({"clip": {"num_frames": 16}}, EngineError, r"clip: length: pocket makes 4k\+1 frames, not 16"),
        (
            {"clip": {"aspect": "9x1"}, "outputs": [{"name": "a", "preset": "web"}]},
            EngineError,
            "four times as long",
        ),
        (
            {"clip": {"aspect": "1x1"}},
            JobError,
            "outputs: wide needs 16x9, but clip.aspect is 1x1, for every row",
        ),
        ({"outputs": BOTH}, JobError, "outputs: tall needs 9x16, but clip.aspect is 16x9, for every row"),
        (
            {"clip": {"aspect": "9x16"}, "outputs": [*BOTH, {"name": "any"}]},
            JobError,
            r"outputs: wide needs 16x9, .*; set `clip\.aspect: \[9x16, 16x9\]`, change the output's `from`, or leave",
        ),
        (
            {
                "clip": {"seconds": 2},
                "layers": [{"box": {"color": "#fff"}}, {"text": {"value": "x", "start": 3}}],
            },
            JobError,
            r"layers\.1\.text\.start: 3 s is not before the end of the clip \(2\.125 s\)",
        ),
        (
            {"layers": [{"text": {"value": "x", "start": 2.125}}]},
            JobError,
            "is not before the end of the clip",
        ),
    ],
)
def test_what_is_wrong_with_every_row_is_told_once(
    case: Case, sections: Any, error: type[Exception], words: str
) -> None:
    """Twenty thousand lines about one missing logo help nobody."""
    case.rows([{"variant_id": i, "prompt": "x"} for i in range(5)])
    with pytest.raises(error, match=words):
        case.read(**sections)


def test_templates_that_name_no_column_are_one_error_before_any_row(case: Case) -> None:
    """Found in a second, with the nearest column, and all of them at once."""
    case.rows([{"variant_id": "a", "product": "x", "logo": "", "prompt": "p"}])
    with pytest.raises(ManifestError) as caught:
        case.read(
            clip={"prompt": "{{ prodct }}", "seed": "{{ sed }}"},
            layers=[{"image": {"url": "{{ lgo }}"}}, {"text": {"value": "{{ aspect }} {{ output }}"}}],
            publish={"url": "o", "path": "{{ variant_id }}/{{ segmnt }}.mp4", "carry": ["variant", "prompt"]},
        )
    text = str(caught.value)
    for words in (
        "clip.prompt: there is no column `prodct`; did you mean `product`?",
        "clip.seed: there is no column `sed`",
        "layers.0.image.url: there is no column `lgo`; did you mean `logo`?",
        "layers.1.text.value: there is no column `aspect`",
        "layers.1.text.value: there is no column `output`",
        "publish.path: there is no column `segmnt`",
        "publish.carry: there is no column `variant`; did you mean `variant_id`?",
    ):
        assert words in text
    assert caught.value.bad_rows == ()


def test_a_matrix_name_that_is_a_column_is_refused(case: Case) -> None:
    """Which of the two would a template mean?"""
    case.rows([{"variant_id": "a", "prompt": "x", "locale": "de"}])
    with pytest.raises(ManifestError, match=r"matrix\.locale: the manifest has a column of this name"):
        case.read(matrix={"locale": ["no"]})


def test_a_manifest_without_prompts_needs_one_in_the_job(case: Case) -> None:
    """The column may be called whatever; then the job says so."""
    case.rows([{"variant_id": "a", "text": "x"}])
    with pytest.raises(ManifestError, match=r"there is no prompt: give clip\.prompt, or a column prompt"):
        case.read()
    assert case.variants(clip={"prompt": "{{ text }}"})


def test_rows_are_streamed(case: Case) -> None:
    """The first variant is there before the last row was looked at."""
    case.rows([{"variant_id": i, "prompt": "x"} for i in range(20_000)])
    variants = iter(read_variants(case.job(), ENGINES, Inputs(case.folder)))
    first = next(variants)
    assert not isinstance(first, BadRow)
    assert first.row == 1


def test_rows_of_one_base_prompt_have_one_branch(case: Case) -> None:
    """The same words, whatever their spacing; a clip's own prompt stays its own."""
    rows = [
        {"variant_id": "a", "prompt": "red", "base": "an orange  star"},
        {"variant_id": "b", "prompt": "blue", "base": " an orange star"},
        {"variant_id": "c", "prompt": "blue", "base": "a heart"},
    ]
    case.rows(rows)
    clips = [
        variant.scenes[0].clips[0][1]
        for variant in case.variants(clip={"branch": {"at": 0.5, "on": "{{ base }}"}})
    ]
    assert [clip.branch for clip in clips] == [
        Branch("an orange star", 6),
        Branch("an orange star", 6),
        Branch("a heart", 6),
    ]
    assert [clip.prompt for clip in clips] == ["red", "blue", "blue"]


def test_a_base_prompt_is_a_template_as_strict_as_the_prompt(case: Case) -> None:
    case.rows([{"variant_id": "a", "prompt": "red", "base": ""}])
    with pytest.raises(
        ManifestError, match=r"clip\.branch\.on: there is no column `bse`; did you mean `base`"
    ):
        case.read(clip={"branch": {"at": 0.5, "on": "{{ bse }}"}})
    (bad,) = case.read(clip={"branch": {"at": 0.5, "on": "{{ base }}"}})
    assert isinstance(bad, BadRow)
    assert bad.reason == "branch.on: is empty, and there is no image either"
    job = case.job(clip={"branch": {"at": 0.5, "on": "{{ base }}"}})
    assert template_columns(job)["clip.branch.on"] == {"base"}


def test_a_branch_that_the_engine_cannot_do_is_told_before_the_first_row(case: Case) -> None:
    case.rows([{"variant_id": "a", "prompt": "red"}])
    with pytest.raises(EngineError, match="pocket has one expert and so no boundary"):
        case.read(clip={"branch": {"at": "boundary", "on": "star"}})
