"""The recipe on tiny configurations: exact where it claims to be exact, resumable at any step."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from torch import nn

from wanflow.pocket import CHECKPOINT
from wanflow.pocket.autoencoder import build_vae, decode_whole, encode_whole
from wanflow.pocket.denoiser import build_transformer, denoise
from wanflow.pocket.grammar import WORDS, words_of
from wanflow.pocket.latents import UPSCALED_WINDOW, load_shard, make_shard
from wanflow.pocket.layout import LayoutHead, cut, draw_layout, layout_loss, place_window
from wanflow.pocket.optim import orthogonalise, orthogonalise_together
from wanflow.pocket.reading import MEANINGS, NOTHING, reading_loss, tagged_caption, train_text
from wanflow.pocket.render import Renderer, drawn_frames
from wanflow.pocket.scenes import SHAPES, sample_scene
from wanflow.pocket.stages import Stage, load_average, run_stage
from wanflow.pocket.text import build_text_encoder, build_tokenizer, encode_captions
from wanflow.pocket.train import CPU, STAGES, Pantry, Recipe, fill, mixed, train
from wanflow.pocket.train_denoiser import REFINE_STARTS, Diet, Feed, draw_batch, stands_out, train_denoiser
from wanflow.pocket.train_vae import polish_vae, train_vae

_TINY_VAE = {"base_dim": 8, "decoder_base_dim": 8, "z_dim": 16}
_TINY = {"num_layers": 2, "ffn_dim": 64, "num_attention_heads": 1}


def _tiny_vae() -> AutoencoderKLWan:
    torch.manual_seed(0)
    return build_vae(_TINY_VAE)


def _weights(module: nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in module.parameters()]


def _equal(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_the_training_pass_is_the_vae_that_users_run() -> None:
    """diffusers decodes chunk by chunk with caches; training on another function would drift from the first
    frame on."""
    vae = _tiny_vae()
    video = torch.rand(1, 3, 17, 32, 48) * 2 - 1
    with torch.no_grad():
        mean, _ = encode_whole(vae, video)
        assert torch.allclose(mean, vae.encode(video).latent_dist.mean, atol=1e-5)
        latents = torch.randn_like(mean)
        assert torch.allclose(decode_whole(vae, latents).clamp(-1, 1), vae.decode(latents).sample, atol=1e-4)


def test_one_weighted_row_stands_for_all_the_padding() -> None:
    """WanPipeline pads a prompt with zero rows to 512 without a mask; training must see the same context."""
    torch.manual_seed(0)
    model = build_transformer(_TINY)
    nn.init.normal_(model.proj_out.weight, std=0.1)
    tokenizer = build_tokenizer()
    context, bias = encode_captions(
        tokenizer, build_text_encoder(len(tokenizer)), ["a red star over navy", "waves"]
    )
    padded = torch.cat([context, context.new_zeros(2, 512 - context.shape[1], context.shape[2])], dim=1)
    latents, times = torch.randn(2, 16, 3, 4, 6), torch.tensor([[0.0, 700.0], [300.0, 300.0]])
    tokens = torch.cat([times[:, :1].expand(2, 6), times[:, 1:].expand(2, 12)], dim=1)
    with torch.no_grad():
        ours, _ = denoise(model, latents, times, context, bias)
        theirs = model(latents, tokens, padded, return_dict=False)[0]
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_orthogonal_updates_have_singular_values_near_one() -> None:
    """Muon's promise: every direction of a weight moves equally far."""
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalise(torch.randn(2, 24, 60)).float())
    assert 0.5 < float(values.min()) <= float(values.max()) < 1.5


def _orthogonalise_in_a_pair(rank: int, meeting: str, matrices: torch.Tensor, expected: torch.Tensor) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    assert torch.allclose(orthogonalise_together(matrices), expected, atol=1e-5)
    dist.barrier()  # a process that ends while its group is at work may abort
    dist.destroy_process_group()


def test_two_processes_share_the_optimisers_work(tmp_path: Path) -> None:
    """Each does half of the matrices, and both end with all of them: the same weights everywhere."""
    torch.manual_seed(0)
    matrices = torch.randn(3, 24, 60)
    arguments = (str(tmp_path / "meeting"), matrices, orthogonalise(matrices))
    torch.multiprocessing.spawn(_orthogonalise_in_a_pair, arguments, nprocs=2)  # raises what a process raised


@pytest.mark.parametrize("train", [train_vae, polish_vae])
def test_a_stopped_vae_stage_ends_like_one_that_never_stopped(tmp_path: Path, train: Any) -> None:
    """The CPU recipe takes hours: it is stopped and resumed, and must not become another model by that."""
    straight, resumed = _tiny_vae(), _tiny_vae()
    train(
        straight, Stage("vae", 4, 0.01, save_every=100, log_every=1), tmp_path / "a", seed=1, batch=1, crop=32
    )

    def stop(step: int) -> None:
        if step == 2:
            raise KeyboardInterrupt

    stage = Stage("vae", 4, 0.01, save_every=2, log_every=1)
    with pytest.raises(KeyboardInterrupt):
        train(resumed, stage, tmp_path / "b", seed=1, batch=1, crop=32, on_save=stop)
    fresh = _tiny_vae()
    assert train(fresh, stage, tmp_path / "b", seed=1, batch=1, crop=32)
    assert _equal(_weights(straight), _weights(fresh))
    rows = [json.loads(line) for line in (tmp_path / "a" / "vae.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows] == [1, 2, 3, 4]


def test_a_stopped_denoiser_stage_ends_like_one_that_never_stopped(tmp_path: Path) -> None:
    """The transformer learns; the text encoder is frozen and comes out as it went in."""
    vae, tokenizer = _tiny_vae(), build_tokenizer()
    shard = make_shard(vae, (32, 48), 17, 0, tmp_path, seed=0, num_clips=3)
    assert load_shard(shard).latents.shape == (3, 16, 5, 4, 6)

    def run(out: Path, stops: bool) -> list[torch.Tensor]:
        torch.manual_seed(0)
        model, encoder = build_transformer(_TINY), build_text_encoder(len(tokenizer))
        before = _weights(encoder)

        def stop(step: int) -> None:
            if stops and step == 2:
                raise KeyboardInterrupt

        stage = Stage("denoiser", 4, 0.01, save_every=2)
        diets = {0: Diet([Feed([shard], 1.0, 2)])}
        train_denoiser(model, encoder, tokenizer, diets, stage, out, seed=3, on_save=stop)
        assert _equal(before, _weights(encoder))
        return _weights(model)

    straight = run(tmp_path / "a", stops=False)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "b", stops=True)
    assert _equal(straight, run(tmp_path / "b", stops=False))


def test_the_text_encoder_learns_to_tell_words_apart(tmp_path: Path) -> None:
    """Before the stage a word's row says nothing about the scene; after some steps it does."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    encoder = build_text_encoder(len(tokenizer))
    with torch.no_grad():
        before = float(reading_loss(tokenizer, encoder, random.Random("judge")))
    train_text(tokenizer, encoder, Stage("text", 40, 0.05, warmup=5, average=0.5), tmp_path, seed=0)
    with torch.no_grad():
        assert float(reading_loss(tokenizer, encoder, random.Random("judge"))) < before - 1.0


def test_every_word_of_a_caption_is_told_what_it_says() -> None:
    """A word that is taken for another part would be taught as that part for the whole training."""
    rng = random.Random(4)
    for _ in range(300):
        scene = sample_scene(rng)
        for word, meaning in tagged_caption(scene, rng):
            part = MEANINGS[meaning][0] if meaning != NOTHING else ""
            spoken = (
                {w for phrase in WORDS[part][getattr(scene, part)] for w in words_of(phrase)} if part else ()
            )
            assert not part or (word in spoken and MEANINGS[meaning][1] == getattr(scene, part))


def test_a_stage_goes_on_from_a_finished_checkpoint(tmp_path: Path) -> None:
    """A team that fine-tunes has the checkpoint, not the folder that it was trained in."""
    vae, encoder, experts = (
        build_vae(),
        build_text_encoder(len(build_tokenizer())),
        [build_transformer(), build_transformer()],
    )
    fill(CHECKPOINT, vae, encoder, *experts)
    for expert, name in zip(experts, ("transformer", "transformer_2"), strict=True):
        shipped = WanTransformer3DModel.from_pretrained(CHECKPOINT / name, torch_dtype=torch.float32)
        assert _equal(_weights(expert), _weights(shipped))
    assert vae.config.latents_std == AutoencoderKLWan.load_config(CHECKPOINT / "vae")["latents_std"]
    assert encoder.encoder.embed_tokens.weight is encoder.shared.weight


def test_refine_learns_the_straight_way_from_the_upscaled_clip_to_the_sharp_one(tmp_path: Path) -> None:
    """Following the velocity that training asks for, from any point of the way, ends at the clip drawn at full size."""
    path = make_shard(_tiny_vae(), (32, 48), 17, 0, tmp_path, seed=0, num_clips=2, upscaled=True)
    shard = load_shard(path)
    assert shard.upscaled is not None
    assert shard.upscaled.shape == shard.latents.shape
    feed = Feed([path], 1.0, 16)
    batch = draw_batch(random.Random(1), feed, Diet([feed], refine_share=1.0), torch.device("cpu"))
    assert batch.times.max() <= REFINE_STARTS[1]
    clean = [int((shard.latents.float() - x).flatten(1).abs().sum(1).argmin()) for x in batch.latents]
    away = shard.upscaled.float()[clean] - batch.latents
    # what is left of the noise along the way to the upscaled clip is (1 - s0) / s0, with s0 in the trained range
    share = (batch.noise * away).flatten(1).sum(1) / away.square().flatten(1).sum(1)
    low, high = ((1 - s) / s for s in reversed(REFINE_STARTS))
    assert low - 1 < share.mean() < high + 1


def test_what_is_upscaled_is_the_same_part_of_the_same_scene(tmp_path: Path) -> None:
    """Shifted by a row, ``refine`` would learn to move pictures."""
    vae = build_vae()
    fill(
        CHECKPOINT, vae, build_text_encoder(len(build_tokenizer())), build_transformer(), build_transformer()
    )
    vae.register_to_config(latents_mean=[0.0] * 16, latents_std=[1.0] * 16)
    shard = load_shard(make_shard(vae, (192, 160), 17, 0, tmp_path, seed=0, num_clips=2, upscaled=True))
    assert shard.latents.shape == (2, 16, 5, UPSCALED_WINDOW, UPSCALED_WINDOW)
    assert shard.upscaled is not None
    with torch.no_grad():
        sharp, soft = (decode_whole(vae, x.float()) for x in (shard.latents, shard.upscaled))
    apart = (sharp - soft).square().mean()
    for axis in (3, 4):
        assert apart < 0.7 * (sharp.roll(3, axis) - soft).square().mean()


def test_a_window_has_the_subject_and_the_layout_that_belongs_to_it(tmp_path: Path) -> None:
    """The second lesson would teach nonsense if a window's layout were another part of the picture."""
    rng = random.Random(5)
    shapes = [s for s in (sample_scene(rng) for _ in range(40)) if s.kind in SHAPES]
    for scene in shapes:
        layout = draw_layout(scene, (96, 160), 1, torch.device("cpu"))
        rows, columns = place_window(rng, layout, 8)
        assert (rows.stop - rows.start, columns.stop - columns.start) == (8, 8)
        assert int((cut(layout, rows, columns) > 128).sum()) > 0.9 * int((layout > 128).sum())
    assert place_window(rng, layout, 100) == (slice(0, 12), slice(0, 20))
    path = make_shard(_tiny_vae(), (96, 160), 1, 0, tmp_path, seed=0, num_clips=12)
    shard = load_shard(path)
    batch = draw_batch(
        rng, feed := Feed([path], 1.0, 16, window=8), Diet([feed], empty_share=0.0), torch.device("cpu")
    )
    assert batch.latents.shape == (16, 16, 1, 8, 8)
    assert batch.layouts.shape == (16, 1, 32, 32)
    for latents, layout in zip(batch.latents, batch.layouts, strict=True):
        (where,) = [
            (place, y, x)
            for place in range(len(shard.scenes))
            for y in range(5)
            for x in range(13)
            if torch.equal(shard.latents[place][..., y : y + 8, x : x + 8].float(), latents)
        ]
        place, y, x = where
        assert torch.equal(shard.layouts[place][..., 4 * y : 4 * y + 32, 4 * x : 4 * x + 32], layout)


def test_the_recipe_runs_from_its_first_stage_to_a_checkpoint_that_renders(tmp_path: Path) -> None:
    """Hours of stages must not end in one that cannot read what the ones before it left."""
    recipe = Recipe(
        **{n: Stage(n, 1, 0.01) for n in ("vae", "polish", "text", "denoiser", "high", "low")},
        vae_batch=1,
        stills=Pantry(1, 1, num_shards=1, num_clips=8, batch=2),
        clips=Pantry(5, 1, num_shards=1, num_clips=8, batch=1),
        doubled=Pantry(5, 2, num_shards=1, num_clips=1, batch=1),
    )
    train(tmp_path, STAGES, recipe, torch.device("cpu"), seed=0, minutes=None, fused=False)
    renderer = Renderer(tmp_path / "checkpoint", 1)
    assert renderer.encoded(drawn_frames(sample_scene(random.Random(1)), (96, 160))).isfinite().all()
    tuned = tmp_path / "tuned"
    (tuned / "latents").parent.mkdir()
    (tmp_path / "latents").rename(tuned / "latents")
    train(
        tuned, ("low", "export"), recipe, torch.device("cpu"), seed=0, minutes=None, fused=False,
        start=tmp_path / "checkpoint",
    )  # fmt: skip
    for name, is_tuned in (("transformer", False), ("transformer_2", True), ("vae", False)):
        before, after = (
            (folder / "checkpoint" / name / "diffusion_pytorch_model.safetensors").read_bytes()
            for folder in (tmp_path, tuned)
        )
        assert (before != after) == is_tuned, name


def test_a_subject_counts_more_than_the_wall_behind_it() -> None:
    """A tenth of the picture that stands out weighs several times its area."""
    latents = torch.zeros(1, 4, 3, 10, 10)
    latents[:, :, :, 4:7, 4:7] = 2.0
    weight = stands_out(latents)
    assert weight.shape == (1, 1, 3, 10, 10)
    assert weight[0, 0, 0, 5, 5] == 4.0
    assert weight[0, 0, 0, 0, 0] == 0.0


def test_the_layout_that_is_read_is_that_of_the_clip() -> None:
    """A head that reads each token's own part of the picture is without loss; one that reads another's is not."""
    scene = next(s for s in map(sample_scene, map(random.Random, range(50))) if s.kind == "star")
    layout = draw_layout(scene, (32, 48), 17, torch.device("cpu"))
    assert layout.shape == (5, 16, 24)
    assert layout.max() > 150  # the subject is white
    assert layout.float().mean() < 100
    head = LayoutHead(64)
    head.forward = lambda features: features  # type: ignore[method-assign]
    tokens = torch.stack(
        [frame[y : y + 8, x : x + 8].flatten() for frame in layout for y in (0, 8) for x in (0, 8, 16)]
    )
    assert float(layout_loss(head, tokens[None] / 255, layout[None])) < 1e-9
    assert float(layout_loss(head, tokens.roll(1, 0)[None] / 255, layout[None])) > 0.1


def test_a_diet_has_as_many_stills_as_it_says() -> None:
    """Shares of two kinds of clips, each in the three shapes."""
    stills, clips = ([Feed([], weight, 1) for weight in (0.5, 0.25, 0.25)] for _ in range(2))
    both = [feed.weight for feed in mixed(stills, 0.8, clips)]
    assert both == pytest.approx([0.4, 0.2, 0.2, 0.1, 0.05, 0.05])


def test_time_is_up_between_steps_and_the_state_is_saved(tmp_path: Path) -> None:
    """``--minutes`` fits training into a slot of a shared machine."""
    layer = nn.ModuleDict({"layer": nn.Linear(8, 8)})

    def loss(step: int) -> tuple[torch.Tensor, dict[str, float]]:
        return layer["layer"](torch.ones(1, 8)).square().mean(), {}

    assert not run_stage(Stage("tiny", 1000, 0.01), layer, loss, tmp_path, minutes=0.0)
    load_average(tmp_path / "tiny.pt", layer, needed=True)


def test_nothing_is_built_on_a_stage_that_ran_out_of_time(tmp_path: Path) -> None:
    """A polished VAE would replace the one that is trained on in the next run."""
    recipe = replace(CPU, vae=Stage("vae", 1000, 0.01), vae_batch=1)
    train(tmp_path, STAGES, recipe, torch.device("cpu"), seed=0, minutes=0.0, fused=False)
    assert {path.name for path in tmp_path.iterdir()} == {"vae.pt", "vae.jsonl"}


def test_a_missing_stage_is_named(tmp_path: Path) -> None:
    """Running stages out of order should say which one to run."""
    with pytest.raises(FileNotFoundError, match="--stage denoiser"):
        load_average(tmp_path / "denoiser.pt", nn.Linear(2, 2), needed=True)
