"""Eight-bit weights and activations (the profile ``fast`` with ``fp8: true``), by torchao.

Only the linear layers of the blocks: rows of weights are scaled once, rows of activations at every step. It is not to
be undone, so an engine that has rendered one such clip renders no others; a run has one profile, and never tries.
Written against torchao 0.18; needs CUDA.
"""

from __future__ import annotations

import importlib.metadata

import torch

from wanflow.engines.profiles import fp8_problem


def problem_of(device: str) -> str:
    """Why ``device`` cannot do it, and what to do; empty where it can."""
    is_cuda = device.startswith("cuda") and torch.cuda.is_available()
    return fp8_problem(torch.cuda.get_device_capability(device) if is_cuda else None, torchao_version())


def torchao_version() -> str | None:
    try:
        return importlib.metadata.version("torchao")
    except importlib.metadata.PackageNotFoundError:
        return None


def quantize(blocks: torch.nn.Module) -> None:
    """One block, or several; in place and for good."""
    from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, PerRow, quantize_

    with torch.inference_mode(False), torch.no_grad():
        quantize_(blocks, Float8DynamicActivationFloat8WeightConfig(granularity=PerRow()))
