"""What a profile needs of a checkpoint and of a device, and what it gets of it. Pure decisions; torch-free.

What a profile is made of stands in the job and in the key of every clip. Nothing here changes it: what cannot be had is
an error before anything is rendered, and never something else in its place.
"""

from __future__ import annotations

from wanflow.engines.lora_names import Dimensions
from wanflow.errors import EngineError
from wanflow.model import EngineSpec, Mode

#: the first GPUs that multiply in 8 bits (Ada, Hopper)
FP8_CAPABILITY = (8, 9)


def dimensions_of(spec: EngineSpec) -> Dimensions | None:
    """What low-rank weights must fit; None where the specification does not say."""
    hints = dict(spec.hints)
    if "width" not in hints:
        return None
    num_blocks, width, ffn_width = (int(str(hints[name])) for name in ("num_blocks", "width", "ffn_width"))
    return Dimensions(num_blocks, width, ffn_width, has_image=bool(hints.get("image_dim")))


def turbo_weights(
    spec: EngineSpec, mode: Mode, high: str | None, low: str | None, distilled: bool
) -> list[tuple[str, str]]:
    """(URL, expert) of the LoRAs that make four steps enough; none for a checkpoint that is distilled itself.

    EngineError says what to give where it is neither.
    """
    two = spec.sampling.boundary is not None
    if not high and not low:
        if distilled or dict(spec.hints).get("distilled"):
            return []
        give = "{high: URL, low: URL}, a distilled LoRA an expert" if two else "{high: URL}, a distilled LoRA"
        raise EngineError(
            f"engine.profile turbo needs distilled weights for {spec.name} ({mode}): set engine.turbo to {give}, or to "
            "{distilled: true} if the checkpoint's own weights are distilled"
        )
    if not two:
        if low:
            raise EngineError(f"engine.turbo.low: {spec.name} has one expert only; give high alone")
        assert high
        return [(high, "both")]
    if not (high and low):
        missing = "low" if high else "high"
        raise EngineError(
            f"engine.turbo.{missing}: {spec.name} has two experts, and each needs a distilled LoRA of its own"
        )
    return [(high, "high"), (low, "low")]


def is_compiled(profile: str, device: str, wanted: bool | None) -> bool:
    """Whether the experts' blocks are compiled; ``wanted`` is ``engine.compile``, None: where it pays."""
    return profile != "exact" and (device.startswith("cuda") if wanted is None else wanted)


def fp8_problem(capability: tuple[int, int] | None, torchao: str | None) -> str:
    """Why a device cannot compute in 8 bits, and what to do; empty where it can.

    ``capability`` is None without a GPU, ``torchao`` the installed version or None.
    """
    if capability is None:
        return "engine.fast.fp8 needs a GPU, and there is none here: leave it out, or render on a GPU"
    if capability < FP8_CAPABILITY:
        have, need = (".".join(map(str, number)) for number in (capability, FP8_CAPABILITY))
        return f"engine.fast.fp8 needs a GPU of compute capability {need} or newer (this one has {have}): leave it out"
    if torchao is None:
        return "engine.fast.fp8 needs torchao, which is not installed: pip install 'wanflow[fp8]'"
    return ""
