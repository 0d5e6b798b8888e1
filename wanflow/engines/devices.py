"""What torch finds on this machine: its version and the GPUs that an engine could use.

Asked by ``doctor``. Knows nothing of checkpoints or engines. Limits: NVIDIA GPUs only.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Gpu:
    """One CUDA device that torch can use."""

    name: str
    total_bytes: int
    #: what no process uses at the moment
    free_bytes: int
    #: the engines compute in bfloat16 there
    bf16: bool


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """torch as it is installed here."""

    torch: str
    #: version of CUDA that this build of torch was made for; None: a build for the CPU
    cuda: str | None
    gpus: tuple[Gpu, ...]
    num_threads: int


def default_device() -> str:
    """What an engine takes that is not told otherwise: the GPU when there is one."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def free_bytes(device: str) -> int | None:
    """What no process uses of the memory of ``device``; None where there is no other memory than the host's."""
    import torch

    return torch.cuda.mem_get_info(device)[0] if device.startswith("cuda") else None


def device_facts() -> DeviceFacts:
    """Import torch and ask it. Raises ImportError (or OSError, for a broken build) when torch cannot be loaded."""
    import torch

    gpus = []
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            free_bytes, total_bytes = torch.cuda.mem_get_info(index)
            gpus.append(Gpu(properties.name, total_bytes, free_bytes, bf16=properties.major >= 8))
    return DeviceFacts(torch.__version__, torch.version.cuda, tuple(gpus), torch.get_num_threads())
