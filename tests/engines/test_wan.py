"""The engine's behaviour beyond equality: noise, caching, progress, stopping, streaming, refusals."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from PIL import Image

from tests.engines.conftest import given, make_clip, silent
from wanflow.engines import Engine, dump_latents, load_engine, load_latents, read_spec
from wanflow.engines.attention import Context
from wanflow.engines.denoise import draw_noise, make_schedule
from wanflow.engines.encoded import Encoded
from wanflow.engines.text import MAX_TOKENS, clean
from wanflow.engines.video import VideoCoder
from wanflow.engines.wan import WanEngine
from wanflow.errors import Cancelled, EngineError, RenderError
from wanflow.model import Cause, Mode, Sampling


def _wan(engine: Callable[[str], Engine], layout: str) -> WanEngine:
    loaded = engine(layout)
    assert isinstance(loaded, WanEngine)
    return loaded


def test_a_clip_is_the_same_whenever_it_is_rendered(engine: Callable[[str], Engine]) -> None:
    """A retry on another replica must give the clip that was approved, not a sibling of it."""
    wan = engine("pocket")
    clip = make_clip(wan, Mode.T2V)
    first = wan.generate(clip, (), silent)
    wan.generate(replace(clip, seed=8, prompt="something else"), (), silent)
    again = wan.generate(clip, (), silent)
    assert torch.equal(first, again)
    assert list(np.concatenate(list(wan.frames(wan.decode_pixels(first)))).shape) == [5, 32, 48, 3]


@pytest.mark.parametrize("change", [{"seed": 8}, {"prompt": "a blue cube"}, {"negative_prompt": "red"}])
def test_what_a_user_changes_changes_the_clip(
    change: dict[str, object], engine: Callable[[str], Engine]
) -> None:
    """If the prompt did not reach the weights, every customer would get the same picture."""
    wan = engine("pocket")
    clip = make_clip(wan, Mode.T2V)
    changed = replace(clip, **change)  # type: ignore[arg-type]
    difference = wan.generate(clip, (), silent) - wan.generate(changed, (), silent)
    assert difference.abs().max() > 1e-3


def test_noise_depends_on_seed_and_shape_alone() -> None:
    """The GPU's own generator gives other numbers than the CPU's, and other ones on the next model of GPU."""
    torch.manual_seed(99)
    first = draw_noise(3, (1, 4, 2, 2, 2))
    torch.manual_seed(100)
    assert torch.equal(first, draw_noise(3, (1, 4, 2, 2, 2)))
    assert torch.equal(first, torch.randn(1, 4, 2, 2, 2, generator=torch.Generator().manual_seed(3)))


def test_a_prompt_is_encoded_once(engine: Callable[[str], Engine]) -> None:
    """Twelve sizes of one prompt pay for the text encoder once; on A14B that is an 11 GB model."""
    wan = _wan(engine, "pocket")
    calls: list[int] = []
    handle = wan._text.model.register_forward_hook(lambda *_: calls.append(1))
    clip = replace(make_clip(wan, Mode.T2V), prompt="never seen before")
    for seed in range(3):
        wan.generate(replace(clip, seed=seed, sampling=replace(clip.sampling, steps=1)), (), silent)
    handle.remove()
    assert sum(calls) == 1


@pytest.mark.parametrize("layout", ["pocket", "a14b_i2v"])
def test_an_image_is_encoded_once(engine: Callable[[str], Engine], layout: str) -> None:
    """Twelve prompts on one packshot pay for the VAE once; another picture, size or length is another condition."""
    wan = _wan(engine, layout)
    image, other = _picture((20, 180, 90)), _picture((200, 0, 0))  # which no other test shows to this engine
    calls: list[int] = []
    handle = wan._vae.encoder.register_forward_hook(lambda *_: calls.append(1))
    clip = make_clip(wan, Mode.I2V)
    clip = replace(clip, sampling=replace(clip.sampling, steps=1))
    first = wan.generate(clip, given(image), silent)
    once = len(calls)
    assert torch.equal(wan.generate(clip, given(image), silent), first)
    wan.generate(replace(clip, seed=1, prompt="stars"), given(image), silent)
    assert len(calls) == once > 0
    assert not torch.equal(wan.generate(clip, given(other), silent), first)
    wan.generate(replace(clip, width=32), given(image), silent)
    assert len(calls) == 3 * once
    handle.remove()


def _picture(colour: tuple[int, int, int]) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (48, 40), colour).save(data, "PNG")
    return data.getvalue()


def test_images_at_hand_take_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty thousand customers have twenty thousand packshots; the one that was used last stays longest."""
    monkeypatch.setattr("wanflow.engines.encoded.KEPT_BYTES", 3 * 4000)
    encoded, made = Encoded("cpu"), list[str]()

    def use(image: str) -> None:
        def make() -> tuple[torch.Tensor | None, ...]:
            made.append(image)
            return None, torch.zeros(1000)

        encoded.of((image, 8, 8, 5), make)

    for image in "abcadab":
        use(image)
    assert "".join(made) == "abcdb"


def test_prompts_are_cleaned_as_the_pipelines_clean_them() -> None:
    """ftfy and entities change tokens: the same prompt must mean the same here as in a notebook with diffusers."""
    from diffusers.pipelines.wan.pipeline_wan import prompt_clean

    for prompt in ["  a\n red   ball ", "caf&amp;eacute; &lt;b&gt;", "schÃ¶n", "「月」　と 猫", ""]:
        assert clean(prompt) == prompt_clean(prompt)


@pytest.mark.parametrize("words", [0, 1, 60, 400])
def test_padding_rows_are_folded_into_one_exactly(words: int, engine: Callable[[str], Engine]) -> None:
    """One row with the weight of all zero rows gives what 512 rows give, from an empty prompt to one that is cut."""
    wan = _wan(engine, "a14b_t2v")
    rows = wan._text.encode("red " * words)
    assert rows.shape[1] == min(words * 4 + (0 if words else 1), MAX_TOKENS)
    expert = wan._experts[0]
    x, time = draw_noise(1, (1, 16, 2, 4, 4)), torch.tensor([900])
    with torch.inference_mode(), wan._one_clip(make_clip(wan, Mode.T2V)):
        folded = wan._predict(expert, x, time, (rows,), None, "positive")
        wan._context.forget()
        for block in expert.blocks:
            block.attn2.set_processor(WanAttnProcessor())
        padded = torch.cat([rows, rows.new_zeros(1, MAX_TOKENS - rows.shape[1], rows.shape[2])], dim=1)
        whole = expert(hidden_states=x, timestep=time, encoder_hidden_states=padded, return_dict=False)[0]
    wan._context = Context(wan._experts, torch.float32)
    assert (folded - whole).abs().max() < 1e-5


def test_in_bf16_the_padding_is_put_back(checkpoint: Callable[[str], Path]) -> None:
    """bf16 rounds the logarithm: equality would be lost, so the rows are padded as the pipelines pad them."""
    expert = WanTransformer3DModel.from_pretrained(
        checkpoint("a14b_t2v") / "transformer", dtype=torch.bfloat16
    )
    context = Context([expert], torch.bfloat16)
    with torch.inference_mode():
        context.use(expert, (torch.ones(1, 3, 32, dtype=torch.bfloat16),), None, "positive")
    processor = expert.blocks[0].attn2.processor
    assert processor.bias is None
    assert processor.kept[0].shape[1] == MAX_TOKENS


@pytest.mark.parametrize(
    ("layout", "mode"), [("a14b_t2v", Mode.T2V), ("ti2v_5b", Mode.T2V), ("wan21_i2v", Mode.I2V)]
)
def test_a_prompts_keys_and_values_are_computed_once_a_clip(
    layout: str, mode: Mode, engine: Callable[[str], Engine], image: bytes
) -> None:
    """512 rows through forty layers at each of forty steps, for numbers that never change: to the last bit."""
    wan = _wan(engine, layout)
    sampling = replace(wan.spec.sampling, steps=4, flow_shift=5.0, guidance=4.0, guidance_low=3.0)
    clip = make_clip(wan, mode, sampling, (64, 32))
    source = image if mode is Mode.I2V else None
    calls: list[int] = []
    of_image: list[int] = []
    keys = [block.attn2.to_k for expert in wan._experts for block in expert.blocks]
    handles = [key.register_forward_hook(lambda *_: calls.append(1)) for key in keys]
    if wan._images is not None:
        added = [block.attn2.add_k_proj for block in wan._experts[0].blocks]
        handles += [key.register_forward_hook(lambda *_: of_image.append(1)) for key in added]
    try:
        kept = wan.generate(clip, given(source), silent)
        assert len(calls) == len(keys) * 2, "once an expert, layer and guidance branch"
        assert len(of_image) == (len(keys) if wan._images else 0), "the image's once for both branches"
        calls.clear()
        wan._context.keeps = False
        computed = wan.generate(clip, given(source), silent)
        assert len(calls) == 2 * 2 * sampling.steps, "at each step, in each branch, in each of two layers"
    finally:
        wan._context.keeps = True
        for handle in handles:
            handle.remove()
    assert torch.equal(kept, computed)
    other = wan.generate(replace(clip, prompt="something else"), given(source), silent)
    assert not torch.equal(other, kept), "another clip's prompt is not taken for this one's"


def test_while_memory_is_short_no_keys_and_values_are_kept(engine: Callable[[str], Engine]) -> None:
    """0.8 GB on A14B, which a rung further down may be the difference; and nothing is held between clips."""
    wan = _wan(engine, "a14b_t2v")
    clip = make_clip(wan, Mode.T2V)
    seen: list[int] = []
    wan.generate(clip, (), lambda *_: seen.append(len(wan._context._kept)))
    assert max(seen) > 0
    assert not wan._context._kept
    assert all(block.attn2.processor.kept is None for expert in wan._experts for block in expert.blocks)
    wan.set_thrift(1)
    try:
        seen.clear()
        wan.generate(clip, (), lambda *_: seen.append(len(wan._context._kept)))
        assert max(seen) == 0
    finally:
        wan.set_thrift(0)


def test_guidance_off_runs_each_step_once(engine: Callable[[str], Engine]) -> None:
    """Distilled weights need no guidance; a second forward for nothing would double the bill."""
    wan = _wan(engine, "a14b_t2v")
    calls: list[int] = []
    handles = [expert.register_forward_hook(lambda *_: calls.append(1)) for expert in wan._experts]
    sampling = replace(wan.spec.sampling, steps=3, guidance=1.0, guidance_low=1.0)
    wan.generate(make_clip(wan, Mode.T2V, sampling), (), silent)
    assert len(calls) == 3
    calls.clear()
    wan.generate(make_clip(wan, Mode.T2V, replace(sampling, guidance=2.0, guidance_low=2.0)), (), silent)
    assert len(calls) == 6
    for handle in handles:
        handle.remove()


def test_progress_tells_every_step(engine: Callable[[str], Engine]) -> None:
    """The run's view and its hang detector live on these calls."""
    wan = engine("pocket")
    seen: list[tuple[str, int, int]] = []
    sampling = replace(wan.spec.sampling, steps=3)
    wan.generate(make_clip(wan, Mode.T2V, sampling), (), lambda *step: seen.append(step))
    assert seen == [("encode", 0, 1), ("encode", 1, 1), *[("denoise", i, 3) for i in range(4)]]


def test_a_cancelled_clip_stops_at_the_step_and_leaves_nothing(engine: Callable[[str], Engine]) -> None:
    """A spot node is about to go: the clip stops within a step, and the next one here is not touched by it."""
    wan = engine("pocket")
    clip = make_clip(wan, Mode.T2V, replace(wan.spec.sampling, steps=4))
    expected = wan.generate(clip, (), silent)
    seen: list[int] = []

    def stop(stage: str, step: int, of: int) -> None:
        seen.append(step)
        if stage == "denoise" and step == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        wan.generate(clip, (), stop)
    assert seen[-1] == 2
    assert torch.equal(wan.generate(clip, (), silent), expected)


@pytest.mark.parametrize("layout", ["pocket", "ti2v_5b", "a14b_t2v"])
def test_streamed_decode_equals_the_vaes_own(
    layout: str, engine: Callable[[str], Engine], checkpoint: Callable[[str], Path]
) -> None:
    """Chunks leave the decoder at once; joined they are vae.decode to the last bit that a file can show."""
    wan = _wan(engine, layout)
    vae = AutoencoderKLWan.from_pretrained(checkpoint(layout) / "vae")
    z_dim = vae.config.z_dim
    latents = draw_noise(2, (1, z_dim, 4, 4, 6))
    chunks = list(wan.decode_pixels(latents))
    assert [chunk.shape[2] for chunk in chunks] == [1, 4, 4, 4]
    mean = torch.tensor(vae.config.latents_mean).view(1, z_dim, 1, 1, 1)
    std = torch.tensor(vae.config.latents_std).view(1, z_dim, 1, 1, 1)
    with torch.inference_mode():
        whole = vae.decode(latents / (1.0 / std) + mean).sample
    assert (torch.cat(chunks, dim=2) - whole).abs().max() < 1e-5
    frames = np.concatenate(list(wan.frames(wan.decode_pixels(latents))))
    expected = ((whole[0] / 2 + 0.5).clamp(0, 1) * 255).round().byte().permute(1, 2, 3, 0).numpy()
    assert np.abs(frames.astype(int) - expected.astype(int)).max() <= 1
    assert frames.dtype == np.uint8


@pytest.mark.parametrize("layout", ["pocket", "ti2v_5b", "a14b_t2v"])
def test_streamed_encode_equals_the_vaes_own(
    layout: str, engine: Callable[[str], Engine], checkpoint: Callable[[str], Path]
) -> None:
    """The upscale encodes a clip as it is decoded, without ever holding it."""
    wan = _wan(engine, layout)
    vae = AutoencoderKLWan.from_pretrained(checkpoint(layout) / "vae")
    z_dim = vae.config.z_dim
    video = draw_noise(4, (1, 3, 9, 32, 64)).clamp(-1, 1)
    latents = wan.encode_pixels(iter([video[:, :, :1], video[:, :, 1:5], video[:, :, 5:]]))
    mean = torch.tensor(vae.config.latents_mean).view(1, z_dim, 1, 1, 1)
    std = torch.tensor(vae.config.latents_std).view(1, z_dim, 1, 1, 1)
    with torch.inference_mode():
        whole = (vae.encode(video).latent_dist.mode() - mean) / std
    assert (latents - whole).abs().max() < 1e-5


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_broken_latents_are_bad_output_and_no_film(bad: float, engine: Callable[[str], Engine]) -> None:
    """NaN decodes to a black film that plays well; nobody would look at it before the customer does."""
    wan = engine("pocket")
    latents = draw_noise(1, (1, 8, 2, 4, 4))
    latents[0, 0, 1, 0, 0] = bad
    with pytest.raises(RenderError) as raised:
        list(wan.frames(wan.decode_pixels(latents)))
    assert raised.value.cause is Cause.BAD_OUTPUT


def test_weights_that_give_nan_are_bad_output(engine: Callable[[str], Engine]) -> None:
    """Seen after the last step, before anything is decoded or stored."""
    wan = _wan(engine, "wan21_t2v")
    weight = wan._experts[0].proj_out.bias
    with torch.no_grad():
        kept = weight.clone()
        weight.fill_(float("nan"))
    try:
        with pytest.raises(RenderError) as raised:
            wan.generate(make_clip(wan, Mode.T2V), (), silent)
    finally:
        with torch.no_grad():
            weight.copy_(kept)
    assert raised.value.cause is Cause.BAD_OUTPUT


def test_the_image_decides_the_first_frame(engine: Callable[[str], Engine], image: bytes) -> None:
    """expand_timesteps keeps the first latent frame clean: it is the image's, exactly."""
    wan = _wan(engine, "pocket")
    clip = make_clip(wan, Mode.I2V)
    latents = wan.generate(clip, given(image), silent)
    assert torch.equal(latents[:, :, :1], wan._condition(clip, given(image), clip.width, clip.height).first)


@pytest.mark.parametrize("data", [b"", b"no image", b"\x89PNG\r\n\x1a\n1234"])
def test_an_unreadable_image_is_bad_input(data: bytes, engine: Callable[[str], Engine]) -> None:
    """Another try on another GPU cannot help: the scheduler must know."""
    wan = engine("pocket")
    with pytest.raises(RenderError) as raised:
        wan.generate(make_clip(wan, Mode.I2V), given(data), silent)
    assert raised.value.cause is Cause.BAD_INPUT


def test_a_truncated_image_is_bad_input(engine: Callable[[str], Engine], image: bytes) -> None:
    """Half an upload has a header that looks well."""
    wan = engine("pocket")
    with pytest.raises(RenderError) as raised:
        wan.generate(make_clip(wan, Mode.I2V), given(image[: len(image) // 2]), silent)
    assert raised.value.cause is Cause.BAD_INPUT


def test_clips_for_other_weights_modes_or_without_image_are_refused(
    engine: Callable[[str], Engine], image: bytes
) -> None:
    """A mix-up between two pools must not write one model's pixels under another's key."""
    wan = engine("a14b_t2v")
    clip = make_clip(wan, Mode.T2V)
    with pytest.raises(RenderError, match="other weights"):
        wan.generate(replace(clip, weights="0"), (), silent)
    with pytest.raises(RenderError, match="does not do i2v"):
        wan.generate(replace(clip, mode=Mode.I2V), given(image), silent)
    with pytest.raises(RenderError, match="with an image"):
        wan.generate(clip, given(image), silent)
    with pytest.raises(RenderError, match="without an image"):
        engine("pocket").generate(make_clip(engine("pocket"), Mode.I2V), (), silent)


def test_latents_survive_the_store(engine: Callable[[str], Engine]) -> None:
    """The next cascade step may run on another node a day later."""
    base, refined = draw_noise(1, (1, 8, 2, 4, 4)), draw_noise(2, (1, 8, 2, 8, 8))
    for latents in ([base], [base, refined]):
        found = load_latents(dump_latents(latents))
        assert len(found) == len(latents)
        assert all(map(torch.equal, found, latents))
    for garbage in (b"", b"garbage", dump_latents([base])[:-5]):
        with pytest.raises(EngineError, match="no latents"):
            load_latents(garbage)


def test_asking_for_a_gpu_where_there_is_none_is_an_error(checkpoint: Callable[[str], Path]) -> None:
    """Falling back to the CPU in silence would turn a night into a month."""
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(EngineError, match="no GPU"):
        load_engine(read_spec(str(checkpoint("pocket"))), device="cuda")


@pytest.mark.parametrize("scheduler", ["unipc", "euler"])
def test_a_partial_schedule_starts_at_its_strength_and_ends_at_nothing(scheduler: str) -> None:
    """Refine adds 30 % noise and removes exactly that, whatever the model's flow shift is."""
    for shift in (1.0, 3.0, 12.0):
        sampling = Sampling(40, 4.0, 3.0, shift, scheduler, 0.875)
        schedule = make_schedule(sampling, {}, torch.device("cpu"), strength=0.3, steps=5)
        assert len(schedule.timesteps) == 5
        assert float(schedule.sigmas[0]) == pytest.approx(0.3)
        assert float(schedule.sigmas[-1]) == 0.0
        assert bool((schedule.sigmas.diff() < 0).all())


def test_four_distilled_steps_are_where_the_models_were_trained() -> None:
    """Four-step weights know the positions 1000, 937.5, 833.3 and 625 only (shift 5)."""
    schedule = make_schedule(Sampling(4, 1.0, 1.0, 5.0, "unipc", 0.9), {}, torch.device("cpu"))
    assert [float(s) for s in schedule.sigmas[:4]] == pytest.approx([1.0, 0.9375, 0.8333, 0.625], abs=2e-3)


def test_images_are_cropped_about_the_centre_with_their_proportions() -> None:
    """A wide pack shot in an upright clip loses its sides, not its shape."""
    from wanflow.engines.picture import open_cover

    array = np.zeros((100, 300, 3), np.uint8)
    array[:, 100:200] = 255
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    fitted = np.asarray(open_cover(buffer.getvalue(), 50, 50))
    assert fitted.shape == (50, 50, 3)
    assert fitted[:, 2:-2].min() > 250


def test_images_are_turned_upright_and_laid_on_white() -> None:
    """Phones store portraits lying down; a product cut-out must not stand in black."""
    from wanflow.engines.picture import open_cover

    array = np.zeros((40, 80, 3), np.uint8)
    array[:, :40, 0] = 255
    lying = Image.fromarray(array)
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    lying.save(buffer, "JPEG", exif=exif, quality=95)
    upright = np.asarray(open_cover(buffer.getvalue(), 40, 80))
    assert upright[:30, :, 0].min() > 200
    assert upright[50:, :, 0].max() < 60

    clear = np.zeros((16, 16, 4), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(clear).save(buffer, "PNG")
    assert np.asarray(open_cover(buffer.getvalue(), 16, 16)).min() == 255


def test_decoding_holds_one_chunk_at_a_time(engine: Callable[[str], Engine]) -> None:
    """Frames go to the encoder as they are made: the first is there before the last is decoded."""
    wan = _wan(engine, "pocket")
    video: VideoCoder = wan._video
    calls: list[int] = []
    handle = video._vae.decoder.register_forward_hook(lambda *_: calls.append(1))
    frames = wan.frames(wan.decode_pixels(draw_noise(1, (1, 8, 3, 4, 4))))
    next(frames)
    assert len(calls) == 1
    assert len(list(frames)) == 2
    handle.remove()


@pytest.mark.gpu
def test_a_gpu_renders_the_same_clip_in_bf16(
    checkpoint: Callable[[str], Path], engine: Callable[[str], Engine]
) -> None:
    """Precision is the only difference: a clip planned here and rendered there shows the same scene."""
    spec = read_spec(str(checkpoint("pocket")))
    on_gpu = load_engine(spec, device="cuda")
    clip = make_clip(on_gpu, Mode.T2V)
    difference = on_gpu.generate(clip, (), silent).cpu() - engine("pocket").generate(clip, (), silent)
    assert difference.abs().mean() < 0.1
