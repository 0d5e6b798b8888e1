"""The shipped folder: diffusers' layout, bfloat16 safetensors, and ``wanflow.json`` with what a render needs
to know."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from transformers import PreTrainedTokenizerFast, UMT5EncoderModel

from wanflow.pocket.denoiser import BOUNDARY
from wanflow.pocket.scenes import FPS, NUM_FRAMES

#: Defaults of a render. Sizes are (width, height).
DEFAULTS: dict[str, Any] = {
    "name": "pocket",
    "version": 1,
    "fps": FPS,
    "num_frames": NUM_FRAMES,
    "sizes": [[160, 96], [96, 160], [128, 128]],
    "steps": 12,
    "guidance": {"high": 4.0, "low": 2.0},
    "flow_shift": 3.0,
    "refine": {"scale": 2, "strength": 0.3, "steps": 4, "color_radius": 2},
}


def build_scheduler(flow_shift: float) -> UniPCMultistepScheduler:
    """Wan's own scheduler with pocket's shift."""
    return UniPCMultistepScheduler(
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        flow_shift=flow_shift,
        num_train_timesteps=1000,
    )


def export(
    folder: Path,
    vae: AutoencoderKLWan,
    encoder: UMT5EncoderModel,
    tokenizer: PreTrainedTokenizerFast,
    high: WanTransformer3DModel,
    low: WanTransformer3DModel,
) -> None:
    """Write the checkpoint; the folder is replaced only once the new one is complete."""
    scheduler = build_scheduler(DEFAULTS["flow_shift"])
    pipeline = WanPipeline(
        tokenizer=tokenizer,
        text_encoder=encoder,
        vae=vae,
        scheduler=scheduler,
        transformer=high,
        transformer_2=low,
        boundary_ratio=BOUNDARY,
        expand_timesteps=True,
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as place:
        fresh = Path(place) / "checkpoint"
        for part in (vae, encoder, high, low):
            for value in [*part.parameters(), *part.buffers()]:
                value.data = value.data.contiguous()
        originals = {
            part: {k: v.clone() for k, v in part.state_dict().items()} for part in (vae, encoder, high, low)
        }
        for part in originals:
            torch.nn.Module.to(part, torch.bfloat16)
        pipeline.save_pretrained(fresh, safe_serialization=True)
        for part, weights in originals.items():
            torch.nn.Module.to(part, torch.float32)
            part.load_state_dict(weights)
        (fresh / "wanflow.json").write_text(json.dumps(DEFAULTS, indent=2) + "\n", encoding="utf-8")
        for path in fresh.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        if folder.exists():
            shutil.rmtree(folder)
        shutil.move(fresh, folder)
