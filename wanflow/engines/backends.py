"""Which attention kernel the experts use: the fastest that works here and gives the numbers of torch's own.

An execution choice: it is in no key, so only kernels that compute the same attention in the same precision are looked
at (SageAttention, which rounds to 8 bits, is not). Each is tried once on this device, compared with torch's own, and
passed over when it fails or differs. ``DIFFUSERS_ATTN_BACKEND`` in the environment decides instead, where it is set.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.utils import logging as diffusers_logging

NATIVE = "native"
#: relative difference of two bf16 kernels that both are right
TOLERANCE = 2e-2
#: tokens of the trial
_NUM_TOKENS = 256


def candidates(capability: tuple[int, int] | None) -> tuple[str, ...]:
    """Names of diffusers' backends, the fastest first; ``capability`` is None on a CPU."""
    if capability is None:
        return (NATIVE,)
    # flash-attention 3 is for Hopper; cuDNN's is the faster one from there on
    return ("_flash_3", "_native_cudnn", NATIVE) if capability >= (9, 0) else (NATIVE,)


def choose(names: Iterable[str], attempt: Callable[[str], torch.Tensor]) -> str:
    """The first backend that gives what torch's own gives. ``attempt`` computes a trial, and may fail in any way."""
    expected: torch.Tensor | None = None
    for name in names:
        if name == NATIVE:
            break
        try:
            found = attempt(name).float()
            expected = attempt(NATIVE).float() if expected is None else expected
            if float((found - expected).norm() / expected.norm()) <= TOLERANCE:
                return name
        except Exception:  # noqa: BLE001  not installed, not for this GPU, not for this shape: the next one
            continue
    return NATIVE


def best_backend(device: str, num_heads: int = 8, head_width: int = 128) -> str:
    """The backend for ``device``, tried there."""
    if given := os.environ.get("DIFFUSERS_ATTN_BACKEND"):
        return given
    if not device.startswith("cuda"):
        return NATIVE
    shape = (1, _NUM_TOKENS, num_heads, head_width)
    generator = torch.Generator("cpu").manual_seed(0)
    query, key, value = (torch.randn(shape, generator=generator).to(device, torch.bfloat16) for _ in range(3))
    return choose(
        candidates(torch.cuda.get_device_capability(device)),
        lambda name: dispatch_attention_fn(query, key, value, backend=name),
    )


def use_backend(experts: Sequence[Any], device: str) -> None:
    """Let every attention of ``experts``, which are alike, compute with the best backend of ``device``."""
    shape = experts[0].config
    name = best_backend(device, shape.num_attention_heads, shape.attention_head_dim)
    if name == NATIVE:
        return
    verbosity = diffusers_logging.get_verbosity()
    diffusers_logging.set_verbosity_error()  # it says of itself that it is experimental, at each call
    try:
        for expert in experts:
            expert.set_attention_backend(name)
    finally:
        diffusers_logging.set_verbosity(verbosity)
