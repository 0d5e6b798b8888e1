"""Clips from a source video: against diffusers' own pipelines, between two experts, and what a clip takes of a file."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
    WanPipeline,
    WanVideoToVideoPipeline,
)

from tests.engines.conftest import make_clip, silent
from tests.engines.test_resume import Interruption
from tests.videos import write_video
from wanflow import cascade
from wanflow.engines import Engine, last_steps, load_fitting
from wanflow.engines.denoise import draw_noise, make_schedule
from wanflow.engines.encoded import Encoded
from wanflow.engines.source_video import source_pixels
from wanflow.errors import Cancelled, EngineError, RenderError
from wanflow.model import (
    Branch,
    CascadeStep,
    Cause,
    Clip,
    Mode,
    Sampling,
    Shortcuts,
    Source,
    SourceVideo,
)

STEPS = 8
_TOLERANCE = 1e-4


def _clip(wan: Engine, strength: float, scheduler: str = "unipc", **changes: Any) -> Clip:
    sampling: Sampling = replace(
        wan.spec.sampling, steps=STEPS, scheduler=scheduler, flow_shift=5.0, **changes
    )
    size = (64, 32) if wan.spec.grid == 32 else (48, 32)
    video = SourceVideo(Source("video.mp4", "2" * 64), last_steps(sampling, strength))
    return replace(make_clip(wan, Mode.T2V, sampling, size), video=video)


def _pixels(clip: Clip) -> torch.Tensor:
    """(1, 3, frames, height, width) in -1..1: smooth, and each frame another."""
    t, y, x = torch.meshgrid(
        *(torch.linspace(0, 1, n) for n in (clip.num_frames, clip.height, clip.width)), indexing="ij"
    )
    return torch.stack([torch.sin(5 * x + 3 * t), torch.cos(4 * y * t), 2 * x * y - 1])[None]


def _chunks(clip: Clip) -> Iterator[torch.Tensor]:
    pixels = _pixels(clip)
    return iter([pixels[:, :, :1], *pixels[:, :, 1:].split(4, dim=2)])


def _begun(wan: Engine, clip: Clip) -> Interruption:
    """Where the clip begins, and no interruption."""
    return Interruption(0, wan.begin(clip, _chunks(clip)))


def _scheduler(directory: Path, sampling: Sampling) -> Any:
    if sampling.scheduler == "euler":
        return FlowMatchEulerDiscreteScheduler(shift=sampling.flow_shift)
    own = UniPCMultistepScheduler.from_pretrained(directory, subfolder="scheduler")
    return UniPCMultistepScheduler.from_config(own.config, flow_shift=sampling.flow_shift)


@pytest.mark.parametrize("scheduler", ["unipc", "euler"])
@pytest.mark.parametrize("strength", [0.3, 0.8, 1.0])
@pytest.mark.parametrize("layout", ["wan21_t2v", "ti2v_5b"])
def test_one_expert_makes_what_the_video_to_video_pipeline_makes(
    layout: str,
    strength: float,
    scheduler: str,
    checkpoint: Callable[[str], Path],
    engine: Callable[[str], Engine],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A strength that was chosen in a notebook means the same here: its encoding, its noise, its steps."""
    wan = engine(layout)
    clip = _clip(wan, strength, scheduler)
    parts = WanPipeline.from_pretrained(checkpoint(layout)).components
    pipeline = WanVideoToVideoPipeline(
        **{name: parts[name] for name in ("tokenizer", "text_encoder", "transformer", "vae")},
        scheduler=_scheduler(checkpoint(layout), clip.sampling),
    )
    pipeline.set_progress_bar_config(disable=True)
    # it takes every VAE for one without patches
    pipeline.vae_scale_factor_spatial = pipeline.vae.config.scale_factor_spatial
    # the pipeline draws its noise itself
    monkeypatch.setattr(
        "diffusers.pipelines.wan.pipeline_wan_video2video.randn_tensor",
        lambda shape, **_: draw_noise(clip.seed, tuple(shape)),
    )
    expected = pipeline(
        video=_pixels(clip)[0].permute(1, 2, 3, 0).numpy() / 2 + 0.5,
        prompt=clip.prompt,
        negative_prompt=clip.negative_prompt,
        height=clip.height,
        width=clip.width,
        num_inference_steps=STEPS,
        guidance_scale=clip.sampling.guidance,
        strength=strength,
        output_type="latent",
    ).frames
    found = wan.generate(clip, (), silent, _begun(wan, clip))
    assert expected.std() > 0.1
    assert (found - expected).abs().max() < _TOLERANCE


class _Rest:
    """A scheduler that shows a pipeline the last steps of its schedule only, and knows them all."""

    def __init__(self, whole: Any, last: int) -> None:
        self._whole, self._last = whole, last

    @property
    def timesteps(self) -> torch.Tensor:
        rest: torch.Tensor = self._whole.timesteps[-self._last :]
        return rest

    def set_begin_index(self, index: int) -> None:
        self._whole.set_begin_index(len(self._whole.timesteps) - self._last + index)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._whole, name)


@pytest.mark.parametrize("sampler", ["unipc", "euler"])
@pytest.mark.parametrize("strength", [0.4, 0.9])
@pytest.mark.parametrize("layout", ["a14b_t2v", "pocket"])
def test_two_experts_take_turns_as_in_the_pipeline(
    layout: str,
    strength: float,
    sampler: str,
    checkpoint: Callable[[str], Path],
    engine: Callable[[str], Engine],
) -> None:
    """diffusers has no such pipeline for two experts: WanPipeline is given the rest of the schedule to run, and latents
    that its scheduler has noised.
    """
    wan = engine(layout)
    clip = _clip(wan, strength, sampler)
    assert clip.video is not None
    pipeline = WanPipeline.from_pretrained(checkpoint(layout))
    pipeline.set_progress_bar_config(disable=True)
    scheduler = pipeline.scheduler = _Rest(_scheduler(checkpoint(layout), clip.sampling), clip.video.steps)
    scheduler.set_timesteps(STEPS)
    first = scheduler.timesteps[:1]
    latents = wan.encode_pixels(_chunks(clip))
    noise = draw_noise(clip.seed, tuple(latents.shape))
    if sampler == "euler":
        noisy = scheduler.scale_noise(latents, first, noise)
    else:
        noisy = scheduler.add_noise(latents, noise, first)
    expected = pipeline(
        prompt=clip.prompt,
        negative_prompt=clip.negative_prompt,
        height=clip.height,
        width=clip.width,
        num_frames=clip.num_frames,
        num_inference_steps=STEPS,
        guidance_scale=clip.sampling.guidance,
        guidance_scale_2=clip.sampling.guidance_low,
        latents=noisy,
        output_type="latent",
    ).frames
    found = wan.generate(clip, (), silent, _begun(wan, clip))
    times = scheduler.timesteps / 1000
    both = bool((times >= clip.sampling.boundary).any()), bool((times < clip.sampling.boundary).any())
    assert both == (strength == 0.9, True), "low strengths are the low-noise expert's alone"
    assert (found - expected).abs().max() < _TOLERANCE


@pytest.mark.parametrize("scheduler", ["unipc", "euler"])
@pytest.mark.parametrize("layout", ["a14b_t2v", "ti2v_5b"])
def test_a_clip_that_was_interrupted_needs_its_video_no_more(
    layout: str, scheduler: str, engine: Callable[[str], Engine]
) -> None:
    """What is saved between two steps is all that it goes on from, to the last bit; steps count from its first."""
    wan = engine(layout)
    clip = _clip(wan, 0.8, scheduler)
    assert clip.num_steps == 6
    begun = _begun(wan, clip)
    assert begun.start is not None
    seen: list[tuple[str, int, int]] = []
    whole = wan.generate(clip, (), lambda *step: seen.append(step), begun)
    assert [step for stage, step, of in seen if stage == "denoise"] == list(range(7))
    assert {of for stage, _, of in seen if stage == "denoise"} == {6}
    for at in (1, 3, 5):
        with pytest.raises(Cancelled):
            wan.generate(clip, (), silent, keep := Interruption(at, begun.start))
        kept = load_fitting(keep.data, wan.maker(clip), 6)
        assert torch.equal(wan.generate(clip, (), silent, Interruption(0, kept)), whole)


@pytest.mark.parametrize("layout", ["a14b_t2v", "ti2v_5b"])
def test_a_video_is_decoded_and_encoded_once(layout: str, engine: Callable[[str], Engine]) -> None:
    """One footage at a few strengths and prompts; another size, length or rate takes other frames of it."""
    wan = engine(layout)
    clip = _clip(wan, 0.5)
    assert clip.video is not None
    clip = replace(clip, video=replace(clip.video, source=Source("video.mp4", "3" * 64)))
    num_taken = 0

    def begin(clip: Clip) -> torch.Tensor:
        def chunks() -> Iterator[torch.Tensor]:
            nonlocal num_taken
            num_taken += 1
            yield from _chunks(clip)

        return wan.begin(clip, chunks()).latents

    first = begin(clip)
    assert torch.equal(begin(replace(clip, prompt="another")), first)
    more = begin(replace(clip, video=replace(clip.video, steps=7)))
    assert num_taken == 1
    assert not torch.equal(more, first)
    wan._encoded = Encoded(wan.device)  # type: ignore[attr-defined]
    assert torch.equal(begin(replace(clip, video=replace(clip.video, steps=7))), more), "to the last bit"
    others = [
        replace(clip, fps=clip.fps / 2),
        replace(clip, num_frames=clip.num_frames + 4),
        replace(clip, width=clip.height, height=clip.width),
        replace(clip, video=replace(clip.video, source=Source("video.mp4", "4" * 64))),
    ]
    for number, other in enumerate(others, 3):
        begin(other)
        assert num_taken == number


def test_guidance_of_fast_ends_after_a_share_of_the_steps_that_are_taken(
    engine: Callable[[str], Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all steps of the schedule, a low strength would have no guided one."""
    wan = engine("wan21_t2v")
    clip = _clip(wan, 0.5, profile="fast", shortcuts=Shortcuts(guidance_until=0.5))
    calls: list[str] = []
    predict = type(wan)._predict  # type: ignore[attr-defined]
    monkeypatch.setattr(type(wan), "_predict", lambda self, *a: (calls.append(a[-1]), predict(self, *a))[1])
    wan.generate(clip, (), silent, _begun(wan, clip))
    assert calls == ["positive", "negative"] * 2 + ["positive"] * 2


def test_turbo_takes_the_last_of_the_times_that_it_was_trained_at(engine: Callable[[str], Engine]) -> None:
    sampling = replace(
        engine("wan21_t2v").spec.sampling, steps=4, flow_shift=5.0, profile="turbo", scheduler="unipc"
    )
    for strength, times in ((0.5, [833, 625]), (0.8, [937, 833, 625]), (1.0, [999, 937, 833, 625])):
        schedule = make_schedule(sampling, {}, torch.device("cpu"), last=last_steps(sampling, strength))
        assert schedule.timesteps.tolist() == times


def test_a_refine_goes_on_from_a_clip_of_a_video(engine: Callable[[str], Engine]) -> None:
    wan = engine("a14b_t2v")
    step = cascade.check(CascadeStep("refine", (("steps", 2),)), wan.spec)
    clip = replace(_clip(wan, 0.5), cascade=(step,))
    latents = wan.generate(clip, (), silent, _begun(wan, clip))
    _, larger = cascade.apply(wan, clip, [latents], (), silent, "cascade-1")
    assert larger.shape[3:] == (2 * latents.shape[3], 2 * latents.shape[4])


def test_a_clip_and_its_video_must_agree(engine: Callable[[str], Engine]) -> None:
    """Pixels from noise alone must not be stored under the key of a clip from a video, nor the other way round."""
    wan = engine("wan21_t2v")
    clip = _clip(wan, 0.5)
    with pytest.raises(RenderError, match="without its video"):
        wan.generate(clip, (), silent)
    with pytest.raises(EngineError, match=r"step 0 of 4\) cannot be gone on from"):
        wan.generate(replace(clip, video=None), (), silent, _begun(wan, clip))
    with pytest.raises(RenderError, match="without its video") as raised:
        wan.generate(replace(clip, branch=Branch("sea", 2)), (), silent)
    assert raised.value.cause is Cause.BAD_INPUT


def test_steps_are_counted_as_diffusers_counts_them() -> None:
    sampling = Sampling(40, 4.0, 3.0, 12.0, "unipc", 0.875)
    counted = WanVideoToVideoPipeline.get_timesteps
    holder = type("Pipeline", (), {"scheduler": type("Scheduler", (), {"order": 1})})
    for hundredths in range(3, 101):
        strength = hundredths / 100
        _, steps = counted(holder, 40, list(range(40)), strength, None)
        assert last_steps(sampling, strength) == steps
    with pytest.raises(EngineError, match=r"0\.02 of 40 steps is less than one; give at least 0\.025"):
        last_steps(sampling, 0.02)


# -- what a clip takes of a file -----------------------------------------------------------------------------------


def _levels(path: Path, num_frames: int, fps: float, size: tuple[int, int] = (32, 32)) -> list[int]:
    """The grey level of each frame that a clip gets."""
    clip = Clip(
        Mode.T2V, "w", "x", "", None, 0, *size, num_frames, fps, Sampling(1, 1.0, None, 1.0, "euler", None)
    )
    chunks = list(source_pixels(path, clip, 4, lambda: None))
    assert [chunk.shape[2] for chunk in chunks] == [1] + [4] * ((num_frames - 1) // 4)
    pixels = torch.cat(chunks, dim=2)
    assert pixels.shape == (1, 3, num_frames, size[1], size[0])
    assert pixels.dtype == torch.float32
    grey = (pixels[0].mean(dim=(0, 2, 3)) + 1) / 2 * 255
    return [round(float(level) / 10) for level in grey]


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov"])
def test_frames_are_those_on_the_screen_at_the_clips_times(tmp_path: Path, suffix: str) -> None:
    """Whatever the container rounds times to, a clip at half the rate gets every second frame, none twice."""
    path = write_video(tmp_path / f"a.{suffix}", [10 * i for i in range(20)], rate=24)
    assert _levels(path, 17, 24.0) == list(range(17))
    assert _levels(path, 9, 12.0) == list(range(0, 18, 2))
    assert _levels(path, 5, 8.0) == [0, 3, 6, 9, 12]
    assert _levels(path, 13, 16.0) == [0, 1, 3, 4, 6, 7, 9, 10, 12, 13, 15, 16, 18]
    assert _levels(path, 9, 48.0) == [0, 0, 1, 1, 2, 2, 3, 3, 4]


def test_the_last_frame_is_held_to_the_end_of_the_clips_last(tmp_path: Path) -> None:
    """Footage of two seconds is enough for a clip of two seconds, which is a frame longer: 17 at 8 a second."""
    path = write_video(tmp_path / "a.mp4", [10 * i for i in range(16)], rate=8)
    assert _levels(path, 17, 8.0) == [*range(16), 15]
    with pytest.raises(
        RenderError, match=r"video lasts 2\.00 s, .* needs 2\.50; give a longer one"
    ) as raised:
        _levels(path, 21, 8.0)
    assert raised.value.cause is Cause.BAD_INPUT


def test_a_frame_covers_the_clip_and_is_cropped_about_its_centre(tmp_path: Path) -> None:
    """As an image is."""
    frame = np.zeros((32, 96, 3), np.uint8)
    frame[:, 32:64] = 200
    path = write_video(tmp_path / "a.mp4", [frame] * 2, rate=8)
    assert _levels(path, 1, 8.0) == [20]
    assert _levels(path, 1, 8.0, (96, 32)) == [7]


def _displayed(path: Path, matrix: tuple[int, int, int, int]) -> Path:
    """The MP4 with another matrix in its track's header: stored (x, y) is shown at (ax + cy, bx + dy), y downwards."""
    a, b, c, d = (value << 16 for value in matrix)
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("first", [(1, 0), (0, 1), (-1, 0), (0, -1)])
@pytest.mark.parametrize("is_mirrored", [False, True])
def test_a_frame_is_turned_and_mirrored_as_players_do(
    tmp_path: Path, first: tuple[int, int], is_mirrored: bool
) -> None:
    """Telephones store what their sensor saw and say how to hold it; some that face their owner mirror it, too."""
    a, b = first
    c, d = (b, -a) if is_mirrored else (-b, a)
    corners = {(-1, -1): 40, (1, -1): 90, (-1, 1): 140, (1, 1): 190}
    frame = np.zeros((64, 64, 3), np.uint8)
    for (x, y), level in corners.items():
        frame[
            slice(None, 32) if y < 0 else slice(32, None), slice(None, 32) if x < 0 else slice(32, None)
        ] = level
    path = _displayed(write_video(tmp_path / "a.mp4", [frame] * 2, rate=8), (a, b, c, d))
    clip = Clip(Mode.T2V, "w", "x", "", None, 0, 64, 64, 1, 8.0, Sampling(1, 1.0, None, 1.0, "euler", None))
    (pixels,) = source_pixels(path, clip, 4, lambda: None)
    levels = (pixels[0, 0, 0] + 1) / 2 * 255
    for (x, y), level in corners.items():
        shown = levels[32 + 16 * (b * x + d * y), 32 + 16 * (a * x + c * y)]
        assert abs(float(shown) - level) < 8


def test_a_video_that_is_gone_or_broken_says_so(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", [0] * 8, rate=8)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(RenderError, match="video is broken or cut off") as raised:
        _levels(path, 5, 8.0)
    assert raised.value.cause is Cause.BAD_INPUT
    path.unlink()
    with pytest.raises(FileNotFoundError):  # which is tried again
        _levels(path, 5, 8.0)
