"""A clip is decoded beside the next one's calls: neither changes what the other gives, nor breaks it by failing."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.engines.conftest import given, make_clip, silent
from wanflow.engines import Engine, load_engine, read_spec
from wanflow.engines.encoded import Encoded
from wanflow.engines.wan import WanEngine
from wanflow.errors import RenderError
from wanflow.model import Cause, Clip, Mode


def _refined(wan: Engine, clip: Clip, images: tuple[bytes, ...], on_step: Any = silent) -> torch.Tensor:
    """What a clip with a cascade asks of an engine: both ways through the VAE between its steps."""
    base = wan.generate(clip, images, on_step)
    larger = wan.encode_pixels(wan.decode_pixels(base))
    return wan.refine(
        clip, larger, images, strength=0.3, steps=2, noise_seed=3, on_step=on_step, stage="cascade-1"
    )


@pytest.mark.parametrize("layout", ["pocket", "a14b_i2v", "wan21_i2v"])
def test_chunks_decoded_between_the_next_clips_steps_are_the_same(
    layout: str, engine: Callable[[str], Engine], image: bytes
) -> None:
    """The VAE looks back on the frames before: those of its own clip, whatever it does in between."""
    wan = engine(layout)
    assert isinstance(wan, WanEngine)
    mode = Mode.I2V if Mode.I2V in wan.spec.modes else Mode.T2V
    images = given(image) if mode is Mode.I2V else ()
    clip = make_clip(wan, mode)
    first = wan.generate(clip, images, silent)
    frames, refined = list(wan.frames(wan.decode_pixels(first))), _refined(wan, clip, images)
    chunks, taken = wan.frames(wan.decode_pixels(first)), []

    def on_step(stage: str, step: int, num_steps: int) -> None:
        if (chunk := next(chunks, None)) is not None:
            taken.append(chunk)

    wan._encoded = Encoded(wan.device)  # its image is encoded anew
    again = _refined(wan, clip, images, on_step)
    taken += chunks
    assert torch.equal(again, refined)
    assert np.array_equal(np.concatenate(taken), np.concatenate(frames))


def test_decoding_in_another_thread_changes_no_number(engine: Callable[[str], Engine]) -> None:
    wan = engine("pocket")
    clip = make_clip(wan, Mode.T2V)
    latents = wan.generate(clip, (), silent)
    frames, refined = np.concatenate(list(wan.frames(wan.decode_pixels(latents)))), _refined(wan, clip, ())
    with ThreadPoolExecutor(1) as other:
        for _ in range(3):
            decoded = other.submit(lambda: np.concatenate(list(wan.frames(wan.decode_pixels(latents)))))
            assert torch.equal(_refined(wan, clip, ()), refined)
            assert np.array_equal(decoded.result(), frames)


def test_a_decoder_without_memory_leaves_the_steps_beside_it_as_they_are(
    engine: Callable[[str], Engine],
) -> None:
    """What it held is free, and the other clip, in the middle of its steps, has lost nothing."""
    wan = engine("pocket")
    assert isinstance(wan, WanEngine)
    clip = make_clip(wan, Mode.T2V)
    latents = wan.generate(clip, (), silent)
    frames = np.concatenate(list(wan.frames(wan.decode_pixels(latents))))
    fails = True

    def fail(*_: Any) -> None:
        if fails:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    handle = wan._vae.decoder.register_forward_hook(fail)
    failed: list[RenderError] = []
    with ThreadPoolExecutor(1) as other:

        def on_step(stage: str, step: int, num_steps: int) -> None:
            if (stage, step) == ("denoise", 2):
                with pytest.raises(RenderError) as raised:
                    other.submit(lambda: list(wan.frames(wan.decode_pixels(latents)))).result()
                failed.append(raised.value)

        try:
            assert torch.equal(wan.generate(clip, (), on_step), latents)
        finally:
            fails = False
            handle.remove()
    assert [error.cause for error in failed] == [Cause.OUT_OF_MEMORY]
    assert np.array_equal(np.concatenate(list(wan.frames(wan.decode_pixels(latents)))), frames)


def test_only_a_gpu_with_room_for_all_weights_decodes_beside_steps(
    engine: Callable[[str], Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU there is nothing to gain; where weights come and go, two clips would take them from each other."""
    wan = engine("pocket")
    assert isinstance(wan, WanEngine)
    assert not wan.decodes_beside
    monkeypatch.setattr(wan, "device", "cuda:0")
    assert wan.decodes_beside
    wan.set_thrift(1)
    try:
        assert not wan.decodes_beside
    finally:
        wan.set_thrift(0)


@pytest.mark.gpu
def test_decoding_on_a_stream_of_its_own_changes_no_number(checkpoint: Callable[[str], Path]) -> None:
    wan = load_engine(read_spec(str(checkpoint("pocket"))), device="cuda")
    clip = make_clip(wan, Mode.T2V)
    latents = wan.generate(clip, (), silent)
    frames, refined = np.concatenate(list(wan.frames(wan.decode_pixels(latents)))), _refined(wan, clip, ())
    assert wan.decodes_beside
    with ThreadPoolExecutor(1) as other:
        for _ in range(10):
            decoded = other.submit(lambda: np.concatenate(list(wan.frames(wan.decode_pixels(latents)))))
            assert torch.equal(_refined(wan, clip, ()), refined)
            assert np.array_equal(decoded.result(), frames)
