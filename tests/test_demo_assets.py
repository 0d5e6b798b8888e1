"""The demo's manifest, pictures and job: what a newcomer sees first must be right, whole and worth looking at."""

from __future__ import annotations

import importlib.util
import itertools
import sys
import wave
from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from wanflow.inputs import Inputs
from wanflow.job import Job, load_job
from wanflow.manifest import read_variants
from wanflow.model import Clip, EngineSpec, ImageLayer, Mode, OutputFile, Sampling, TextLayer, Variant

ROOT = Path(__file__).parents[1]
MANIFEST = ROOT / "manifests" / "ad_variants.parquet"
PICTURES = ROOT / "manifests" / "ad_variants"

#: what pocket's own configuration says; the weights do not matter here
POCKET = EngineSpec(
    url="pocket",
    family="wan",
    name="pocket",
    weights="0" * 64,
    modes=frozenset(Mode),
    fps=8.0,
    grid=16,
    frame_stride=4,
    sizes=((160, 96), (128, 128), (96, 160)),
    num_frames=17,
    sampling=Sampling(12, 4.0, None, 3.0, "unipc", None),
)


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    """``manifests/make_ad_variants.py`` as a module."""
    spec = importlib.util.spec_from_file_location("make_ad_variants", MANIFEST.parent / "make_ad_variants.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def job() -> Job:
    return load_job(ROOT / "jobs" / "ad_variants.yaml")


@pytest.fixture(scope="module")
def variants(job: Job) -> list[Variant]:
    read = list(
        read_variants(job, {Mode.T2V: POCKET, Mode.I2V: POCKET}, Inputs(job.directory, allowed=job.allowed()))
    )
    bad = [row for row in read if not isinstance(row, Variant)]
    assert bad == []
    return [row for row in read if isinstance(row, Variant)]


def clip_of(variant: Variant) -> Clip:
    [scene] = variant.scenes
    [(_, clip)] = scene.clips
    return clip


def test_thirty_six_ads_share_twelve_clips(variants: list[Variant]) -> None:
    """The demo's point: what differs from customer to customer costs no GPU."""
    uses = Counter(clip_of(variant) for variant in variants)
    assert len(variants) == 36
    assert len(uses) == 12
    assert set(uses.values()) == {3}
    assert len({clip.prompt for clip in uses}) == 12
    assert len({clip.image for clip in uses if clip.image}) == 6
    assert Counter(clip.mode for clip in uses) == {Mode.T2V: 6, Mode.I2V: 6}


def test_every_customer_gets_every_aspect(variants: list[Variant]) -> None:
    counted = Counter((dict(v.carry)["customer"], output.name) for v in variants for output, _ in v.outputs)
    customers = {customer for customer, _ in counted}
    assert len(customers) == 4
    assert counted == dict.fromkeys(itertools.product(customers, ["story", "square", "wide"]), 3)


def test_clip_knows_nothing_of_its_customers(recipe: ModuleType) -> None:
    brands = {*recipe.BRANDS, *(brand.customer.lower() for brand in recipe.BRANDS.values())}
    for campaign in recipe.CAMPAIGNS:
        assert not any(brand in campaign.prompt.lower() for brand in brands)


def test_each_row_shows_its_own_logo_product_headline_and_button(variants: list[Variant]) -> None:
    for variant in variants:
        customer = str(dict(variant.carry)["customer"])
        images = [Path(x.image.url).name for x in variant.scenes[0].layers if isinstance(x, ImageLayer)]
        assert images[0] == f"{customer}-product.png"
        assert images[1].startswith(f"{customer}-logo-")
        assert [x.style for x in variant.scenes[0].layers if isinstance(x, TextLayer)] == ["headline", "cta"]
    headlines = {dict(variant.carry)["headline"] for variant in variants}
    assert len(headlines) == 36


def test_table_is_what_its_script_makes(recipe: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table edited by hand, or a script changed without running it, would be two truths."""
    monkeypatch.setattr(recipe, "first_frame", lambda c: recipe.from_job(PICTURES / f"scene-{c.name}.png"))
    monkeypatch.setattr(recipe, "write_jingle", lambda name: recipe.from_job(PICTURES / f"{name}-jingle.wav"))
    assert pq.read_table(MANIFEST).to_pylist() == recipe.rows()


def test_source_pictures_are_what_their_script_draws(recipe: ModuleType) -> None:
    for campaign in recipe.CAMPAIGNS:
        path = PICTURES / f"scene-{campaign.name}.png"
        assert path.exists() == campaign.from_image
        if campaign.from_image:
            width, height = recipe.SIZES[campaign.aspect]
            drawn = (
                recipe.draw(campaign.scene, height, width, num_frames=1)[:, 0].permute(1, 2, 0).numpy() * 255
            )
            with Image.open(path) as stored:
                assert np.abs(np.asarray(stored).astype(float) - drawn).max() < 3


def test_jingles_are_what_their_script_makes_and_no_two_alike(recipe: ModuleType) -> None:
    stored = {}
    for name, brand in recipe.BRANDS.items():
        with wave.open(str(PICTURES / f"{name}-jingle.wav")) as file:
            samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(int)
        assert np.abs(samples - recipe.jingle(brand)).max() <= 2, name
        stored[name] = samples / np.linalg.norm(samples)
    assert all(abs(stored[a] @ stored[b]) < 0.7 for a, b in itertools.combinations(stored, 2))


def test_prompts_are_ones_that_pocket_was_trained_on(recipe: ModuleType) -> None:
    """Pocket knows a small grammar; a prompt outside of it, or a pair that it has never seen, looks poor."""
    from wanflow.pocket.grammar import read_caption

    for campaign in recipe.CAMPAIGNS:
        scene = campaign.scene
        assert not scene.held_out(), campaign.name
        assert read_caption(campaign.prompt) == {
            "kind": scene.kind,
            "colour": scene.colour,
            "background": scene.background,
            "motion": scene.motion,
            "scale": scene.scale,
        }


def test_any_two_clips_differ_to_the_eye(recipe: ModuleType) -> None:
    thumbs = {c.name: recipe.draw(c.scene, 32, 32, num_frames=9)[:, ::4].numpy() for c in recipe.CAMPAIGNS}
    for (one, a), (other, b) in itertools.combinations(thumbs.items(), 2):
        assert np.abs(a - b).mean() > 0.06, f"{one} and {other} look alike"


def test_cut_outs_and_logos_are_transparent_around(variants: list[Variant]) -> None:
    for path in sorted(PICTURES.glob("*-product.png")) + sorted(PICTURES.glob("*-logo-*.png")):
        with Image.open(path) as picture:
            assert picture.mode == "RGBA"
            alpha = np.asarray(picture)[..., 3]
            assert alpha[0, 0] == 0
            assert 0.05 < (alpha > 128).mean() < 0.95, path.name


def test_everything_committed_is_small() -> None:
    assert sum(path.stat().st_size for path in [*PICTURES.iterdir(), MANIFEST]) < 3_000_000


def test_headlines_keep_their_size(variants: list[Variant]) -> None:
    """A headline that had to shrink looks like a mistake next to its neighbours."""
    from wanflow.assemble.text import STYLES, lay_out

    for variant in variants:
        for output, _ in variant.outputs:
            blocks = lay_out(variant.scenes[0].layers, {}, output.width, output.height, 2.0)
            for block in (block for each in blocks.values() for block in each):
                assert block.style is not None
                wanted = STYLES[getattr(block.layer, "style", "")].size * min(output.width, output.height)
                assert block.size == pytest.approx(wanted), variant.variant_id
                assert len(block.lines) <= 2


@pytest.mark.parametrize("name", ["story", "square", "wide"])
def test_ad_comes_out_as_the_job_asks(
    variants: list[Variant], recipe: ModuleType, name: str, tmp_path: Path
) -> None:
    """One ad of each format with the real ffmpeg, over the drawn scene instead of a generated one."""
    from wanflow import master
    from wanflow.assemble import assemble
    from wanflow.quality import check_file

    variant = next(v for v in variants if v.outputs[0][0].name == name)
    campaign = next(c for c in recipe.CAMPAIGNS if c.name == dict(variant.carry)["campaign"])
    width, height = recipe.SIZES[campaign.aspect]
    frames = (recipe.draw(campaign.scene, height, width).permute(1, 2, 3, 0) * 255).round().byte().numpy()
    master.encode(iter([frames]), 8.0, tmp_path / "m.mp4")
    sources = {source.digest: Path(source.url) for source in variant.sources}
    [(output, path)] = variant.outputs
    assert path == f"{dict(variant.carry)['customer']}/{variant.variant_id}-{name}.mp4"
    made = assemble(
        variant, OutputFile(output, path, "k", ("m",)), {"m": tmp_path / "m.mp4"}, sources, tmp_path
    )
    facts = check_file(
        made.files["video"], output, [17 / 8], [tmp_path / "m.mp4"], made.covered, has_sound=True
    )
    assert (facts["num_frames"], facts["fps"]) == (51, 24.0)
