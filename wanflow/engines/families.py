"""What each known Wan model was made for, and how a checkpoint's own configuration files tell which one it is.

Owns the table of defaults: steps, flow shift, guidance, frames, sizes. It knows no files and no weights: it looks at
parsed configurations only. Converted checkpoints carry ``flow_shift`` 3.0 in their scheduler, which is not the models'
own; the numbers here are those of the published inference code. A ``wanflow.json`` in the checkpoint overrides them.

A checkpoint with a known layout but other dimensions (a fine-tuned small one, say) gets the defaults of its layout.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wanflow.errors import EngineError
from wanflow.model import LastImage, Mode

_480P = ((832, 480), (480, 832), (624, 624))
_720P = ((1280, 720), (720, 1280), (960, 960))


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a model was made for; the first size's area is what other aspects are computed from."""

    name: str
    fps: float
    num_frames: int
    sizes: tuple[tuple[int, int], ...]
    steps: int
    flow_shift: float
    guidance: float
    guidance_low: float | None = None
    scheduler: str = "unipc"
    refine_scale: float = 2.0
    #: noise that ``refine`` adds, as the share of noise in the mix (sigma), not as a share of the steps
    refine_strength: float = 0.3
    #: 0: the strength's share of the base's steps
    refine_steps: int = 0
    #: pixels
    refine_color_radius: float = 16.0
    #: made for a few steps without guidance
    distilled: bool = False
    last_image: LastImage = LastImage.NEVER


_A14B_T2V = Defaults("wan2.2-t2v-a14b", 16, 81, _480P + _720P, 40, 12.0, 4.0, 3.0)
_A14B_I2V = Defaults("wan2.2-i2v-a14b", 16, 81, _480P + _720P, 40, 5.0, 3.5, 3.5, last_image=LastImage.MAY)
_TI2V_5B = Defaults("wan2.2-ti2v-5b", 24, 121, ((1280, 704), (704, 1280), (960, 960)), 50, 5.0, 5.0)
_WAN21_14B = Defaults("wan2.1-t2v-14b", 16, 81, _720P + _480P, 50, 5.0, 5.0)
_WAN21_1_3B = Defaults("wan2.1-t2v-1.3b", 16, 81, _480P, 50, 8.0, 6.0)
_WAN21_I2V_480P = Defaults("wan2.1-i2v-14b-480p", 16, 81, _480P, 40, 3.0, 5.0)
_WAN21_I2V_720P = Defaults("wan2.1-i2v-14b-720p", 16, 81, _720P, 40, 5.0, 5.0)
_WAN21_FLF2V = Defaults("wan2.1-flf2v-14b-720p", 16, 81, _720P, 50, 16.0, 5.0, last_image=LastImage.MUST)


def recognise(
    index: Mapping[str, Any], transformer: Mapping[str, Any], scheduler: Mapping[str, Any]
) -> tuple[Defaults, frozenset[Mode], bool]:
    """Defaults, modes, and whether it is the published model itself (dimensions and all), from ``model_index.json``,
    ``transformer/config.json`` and ``scheduler/scheduler_config.json``.

    Raises EngineError when the engine cannot drive this layout.
    """
    channels_in = int(transformer.get("in_channels", 16))
    channels_out = int(transformer.get("out_channels") or channels_in)
    dimensions = (
        int(transformer.get("num_layers", 40)),
        int(transformer.get("num_attention_heads", 40)) * int(transformer.get("attention_head_dim", 128)),
    )
    two_experts = index.get("boundary_ratio") is not None
    if bool(index.get("expand_timesteps")):
        return _TI2V_5B, frozenset(Mode), dimensions == (30, 3072) and not two_experts
    if channels_in == channels_out:
        if two_experts:
            return _A14B_T2V, frozenset({Mode.T2V}), dimensions == (40, 5120)
        small = dimensions[1] < 5120
        known = dimensions == ((30, 1536) if small else (40, 5120))
        return (_WAN21_1_3B if small else _WAN21_14B), frozenset({Mode.T2V}), known
    # 20 extra channels: the image's latents and a mask of one channel for each frame that a latent frame stands for
    if channels_in == 2 * channels_out + 4:
        large = dimensions == (40, 5120)
        if transformer.get("image_dim") is None:
            return _A14B_I2V, frozenset({Mode.I2V}), large and two_experts
        return _with_image_features(transformer, scheduler), frozenset({Mode.I2V}), large and not two_experts
    raise EngineError(
        f"a transformer with {channels_in} channels in and {channels_out} out is neither text-to-video (as many in as "
        f"out) nor image-to-video ({2 * channels_out + 4} in); the wan engine does not know this layout"
    )


def _with_image_features(transformer: Mapping[str, Any], scheduler: Mapping[str, Any]) -> Defaults:
    """Wan 2.1: FLF2V has places for the features of two images, I2V for those of one. I2V for 480p and I2V for 720p are
    one layout: the flow shift alone, 3 and 5, tells them apart.
    """
    if transformer.get("pos_embed_seq_len") is not None:
        return _WAN21_FLF2V
    shift = scheduler.get("flow_shift")
    return _WAN21_I2V_720P if isinstance(shift, int | float) and shift >= 5 else _WAN21_I2V_480P
