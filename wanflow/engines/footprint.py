"""What a checkpoint takes of a GPU, and so the rung of the memory ladder on which an engine begins (``residence`` has
the table of them).

Weights are counted from the headers of their files, in the precision in which the engine loads them onto a GPU. What
is computed beside them is estimated from shapes, for the largest clip of a run (``EngineSpec.largest``): the factors
are peaks of live tensors, counted in forwards of the true shapes on torch's device without memory, and ``SLACK`` is a
guess at kernels' workspaces and at what an allocator cannot use. None of it was measured on a GPU. What else a job adds
is not in it (LoRAs, both guidance branches in one forward): a clip that does not fit goes further down from there, and
two of its kind teach the scheduler.

The rung is chosen for one clip. On rung 0 a clip is decoded beside the next one's steps where there is room for both
(``needed_bytes_of_two``); where there is not, one after the other on rung 0 beats any rung below, none of which does
two at once.

Pure but for the reading of headers; knows nothing of torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wanflow.engines import checkpoint
from wanflow.engines.spec import hint
from wanflow.model import EngineSpec, Mode

#: rungs by number, as they are told
RUNGS = (
    "everything stays on the GPU",
    "the experts stay on the GPU, the rest comes while it works",
    "what works is on the GPU, one component at a time",
    "what works is on the GPU, experts block by block",
)
LAST_RUNG = len(RUNGS) - 1
#: from here on nothing stays on the device
ONE_AT_A_TIME = 2
#: over the tensors that are counted
SLACK = 1.15

EXPERTS = ("transformer", "transformer_2")
#: the precision in which the engine loads them; the others are in bfloat16
FLOAT32 = ("vae", "image_encoder")
#: of an expert's forward: bytes over those of tokens x (width + width of the feed-forward) in bfloat16; counted 2.3 to
#: 3.0 where one time serves all tokens (1.3B, 5B, 14B), 5.7 where each has its own (5B from an image)
EXPERT_FACTOR, EXPERT_FACTOR_TOKEN_TIMES = 3.0, 6.0
#: of the decoder: bytes over those of one feature map of its base width at full size, in float32; counted 50.7 (the
#: autoencoder of 2.1) and 84.0 (of 5B, whose last stage begins twice as wide)
DECODER_FACTOR, DECODER_FACTOR_RESIDUAL = 51.0, 84.0
#: of the encoder, which takes less, in the same way; counted 36.8 and 45.1
ENCODER_FACTOR, ENCODER_FACTOR_RESIDUAL = 37.0, 45.5
#: of a prompt of 512 tokens in UMT5-XXL (counted: 0.1 GB), or of an image in CLIP's encoder
ENCODER_BYTES = 250_000_000


@dataclass(frozen=True, slots=True)
class Part:
    """A component of a checkpoint."""

    #: its folder
    name: str
    #: weights on a GPU
    num_bytes: int
    #: weights on a GPU at the last rung
    least_bytes: int
    #: what it computes with beside its weights
    work_bytes: int
    #: the same, of what it computes for a clip while the one before is decoded
    beside_bytes: int

    @property
    def is_expert(self) -> bool:
        return self.name in EXPERTS


def read_parts(files: checkpoint.Files, spec: EngineSpec) -> tuple[Part, ...]:
    """The components of ``spec``'s checkpoint, which lies in ``files``. EngineError names what is broken."""
    index = checkpoint.read_json(files, "model_index.json")
    vae = checkpoint.read_json(files, "vae/config.json")
    work = _work(vae, spec, bool(index.get("expand_timesteps")))
    # what a source video or a cascade adds is not counted: few jobs have one
    beside = work | {"vae": _encoder(vae, spec) if Mode.I2V in spec.modes else 0.0}
    parts = []
    for name in checkpoint.components(files, index):
        if name not in work:
            continue  # it has no weights
        width = 4 if name in FLOAT32 else 2
        blocks: dict[str, int] = {}
        num_bytes = 0
        for tensor, shape in checkpoint.tensor_shapes(files, name).items():
            size = math.prod(shape) * width
            num_bytes += size
            if name in EXPERTS and tensor.startswith("blocks."):
                block = tensor.split(".", 2)[1]
                blocks[block] = blocks.get(block, 0) + size
        least = num_bytes - sum(blocks.values()) + max(blocks.values(), default=0)
        parts.append(
            Part(name, num_bytes, least, math.ceil(SLACK * work[name]), math.ceil(SLACK * beside[name]))
        )
    return tuple(parts)


def needed_bytes(parts: Sequence[Part], rung: int) -> int:
    """The most that is on the device at once on ``rung``."""
    if rung == LAST_RUNG:
        return max(part.least_bytes + part.work_bytes for part in parts)
    staying = _staying(parts, rung)
    beside = sum(part.num_bytes for part in staying)
    return max(beside + part.work_bytes + (0 if part in staying else part.num_bytes) for part in parts)


def needed_bytes_of_two(parts: Sequence[Part]) -> int:
    """The most that is on the device at once on rung 0 while a clip is decoded and the next one's steps run."""
    decoding = sum(part.work_bytes for part in parts if part.name == "vae")
    return sum(part.num_bytes for part in parts) + decoding + max(part.beside_bytes for part in parts)


def needed_bytes_beside_expert(parts: Sequence[Part]) -> int:
    """The most that is on the device at once where one expert stays there while anything else works."""
    expert = max(part.num_bytes for part in parts if part.is_expert)
    return max(expert + part.work_bytes + (0 if part.is_expert else part.num_bytes) for part in parts)


def host_bytes(parts: Sequence[Part], rung: int) -> int:
    """Weights that the host's memory keeps for a replica on ``rung``, while they are on the device, too."""
    return sum(part.num_bytes for part in parts if part not in _staying(parts, rung))


def _staying(parts: Sequence[Part], rung: int) -> Sequence[Part]:
    """What is on the device whatever works."""
    return (parts, [part for part in parts if part.is_expert], (), ())[rung]


def choose_rung(parts: Sequence[Part], free_bytes: int) -> int:
    """The first rung that fits into ``free_bytes``; where none does, the first that needs no more than the last."""
    least = needed_bytes(parts, LAST_RUNG)
    return next(rung for rung in range(LAST_RUNG + 1) if needed_bytes(parts, rung) <= max(free_bytes, least))


def _work(vae: Mapping[str, Any], spec: EngineSpec, has_token_times: bool) -> dict[str, float]:
    """Bytes that each kind of component computes with, for the largest clip."""
    width, height, num_frames = _largest(spec)
    frames = (num_frames - 1) // spec.frame_stride + 1
    expert = _expert(spec, width * height // spec.grid**2 * frames, has_token_times)
    encoders = dict.fromkeys(("text_encoder", "image_encoder"), ENCODER_BYTES)
    return dict.fromkeys(EXPERTS, expert) | {"vae": _decoder(vae, spec)} | encoders


def _largest(spec: EngineSpec) -> tuple[int, int, int]:
    """(width, height, frames)"""
    return spec.largest or (*max(spec.sizes, key=math.prod), spec.num_frames)


def _expert(spec: EngineSpec, num_tokens: int, has_token_times: bool) -> float:
    width = hint(spec, "width", 5120)
    factor = EXPERT_FACTOR_TOKEN_TIMES if has_token_times else EXPERT_FACTOR
    forward = factor * 2 * num_tokens * (width + hint(spec, "ffn_width", 13824))
    # keys and values of two prompts of 512 tokens, in every block
    return forward + 2 * 2 * 2 * 512 * width * hint(spec, "num_blocks", 40)


def _decoder(config: Mapping[str, Any], spec: EngineSpec) -> float:
    base = int(config.get("decoder_base_dim") or config.get("base_dim", 96))
    factor = DECODER_FACTOR_RESIDUAL if config.get("is_residual") else DECODER_FACTOR
    return factor * base * _map_bytes(config, spec)


def _encoder(config: Mapping[str, Any], spec: EngineSpec) -> float:
    factor = ENCODER_FACTOR_RESIDUAL if config.get("is_residual") else ENCODER_FACTOR
    return factor * int(config.get("base_dim", 96)) * _map_bytes(config, spec)


def _map_bytes(config: Mapping[str, Any], spec: EngineSpec) -> float:
    """Of one channel at full size, in float32."""
    width, height, _ = _largest(spec)
    return 4 * width * height / int(config.get("patch_size") or 1) ** 2
