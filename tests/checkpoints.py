"""Tiny random checkpoints in every layout that the engine drives: real diffusers components, about half a
megabyte each.

``make("pocket", directory, seed=0)`` writes one in diffusers' layout with a ``wanflow.json`` of small sizes,
so that jobs written in aspects and seconds run on it unchanged in about a second. The same seed gives the
same weights. The pictures are noise; what they exercise is not.

==========  ======================================================================  ==================
layout      what it has                                                             modes
==========  ======================================================================  ==================
pocket      two experts, ``expand_timesteps``, VAE of 8x with patches of 2          t2v and i2v
ti2v_5b     one expert, ``expand_timesteps``, VAE of 16x with patches of 2          t2v and i2v
a14b_t2v    two experts, boundary 0.875, VAE of 8x                                  t2v
a14b_i2v    two experts, boundary 0.9, 36 channels in, no CLIP, VAE of 8x           i2v
wan21_t2v   one expert, VAE of 8x                                                   t2v
wan21_i2v   one expert, 36 channels in, CLIP's image encoder, VAE of 8x             i2v
wan21_flf2v as wan21_i2v, with a place for the last frame's features                i2v with a last frame
==========  ======================================================================  ==================
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

LAYOUTS = ("pocket", "ti2v_5b", "a14b_t2v", "a14b_i2v", "wan21_t2v", "wan21_i2v", "wan21_flf2v")

_TEXT_DIM = 32

_TRANSFORMER: dict[str, Any] = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "text_dim": _TEXT_DIM,
    "freq_dim": 32,
    "ffn_dim": 48,
    "num_layers": 2,
    "cross_attn_norm": True,
    "qk_norm": "rms_norm_across_heads",
    "rope_max_seq_len": 64,
}

#: as in the 14B checkpoints: 8x in space, 4x in time
_VAE_8X: dict[str, Any] = {
    "base_dim": 4,
    "z_dim": 16,
    "dim_mult": [1, 1, 1, 1],
    "num_res_blocks": 1,
    "temperal_downsample": [False, True, True],
}

#: as in TI2V-5B: patches of 2 before three halvings, residual blocks
_VAE_16X: dict[str, Any] = {
    "base_dim": 4,
    "decoder_base_dim": 6,
    "z_dim": 48,
    "dim_mult": [1, 1, 1, 1],
    "num_res_blocks": 1,
    "temperal_downsample": [False, True, True],
    "is_residual": True,
    "patch_size": 2,
    "in_channels": 12,
    "out_channels": 12,
    "scale_factor_spatial": 16,
    "latents_mean": [0.1 * (i % 5) - 0.2 for i in range(48)],
    "latents_std": [1.0 + 0.1 * (i % 3) for i in range(48)],
}

#: as in pocket: patches of 2 before two halvings
_VAE_POCKET: dict[str, Any] = {
    "base_dim": 4,
    "decoder_base_dim": 6,
    "z_dim": 8,
    "dim_mult": [1, 1, 1],
    "num_res_blocks": 1,
    "temperal_downsample": [True, True],
    "patch_size": 2,
    "in_channels": 12,
    "out_channels": 12,
    "scale_factor_spatial": 8,
    "latents_mean": [0.1 * i - 0.3 for i in range(8)],
    "latents_std": [1.0 + 0.1 * i for i in range(8)],
}

#: of CLIP's image encoder: pictures of 28x28 in patches of 14 are four rows and the class token's
_IMAGE_DIM, _IMAGE_SIDE = 16, 28
#: of a transformer that looks at its features
_LOOKS: dict[str, Any] = {"image_dim": _IMAGE_DIM, "added_kv_proj_dim": 24}
#: and of one that looks at two pictures
_LOOKS_TWICE = _LOOKS | {"pos_embed_seq_len": 10}

_SIZES_16 = [[32, 32], [32, 64], [64, 32]]
_SIZES_32 = [[64, 64], [32, 64], [64, 32]]


def _layout(name: str) -> dict[str, Any]:
    """(channels in, VAE, two experts, pipeline's configuration, wanflow.json) of a layout."""
    small = {"name": f"tiny-{name}", "fps": 4, "num_frames": 5, "sizes": _SIZES_16, "steps": 2, "version": 1}
    if name == "pocket":
        config = {"boundary_ratio": 0.9, "expand_timesteps": True}
        facts = small | {"guidance": {"high": 4.0, "low": 3.0}, "flow_shift": 3.0}
        return {"channels": 8, "vae": _VAE_POCKET, "experts": 2, "config": config, "facts": facts}
    if name == "ti2v_5b":
        config = {"boundary_ratio": None, "expand_timesteps": True}
        return {
            "channels": 48,
            "vae": _VAE_16X,
            "experts": 1,
            "config": config,
            "facts": small | {"sizes": _SIZES_32},
        }
    if name == "a14b_t2v":
        config = {"boundary_ratio": 0.875, "expand_timesteps": False}
        return {"channels": 16, "vae": _VAE_8X, "experts": 2, "config": config, "facts": small}
    if name == "a14b_i2v":
        config = {"boundary_ratio": 0.9, "expand_timesteps": False}
        return {"channels": 36, "vae": _VAE_8X, "experts": 2, "config": config, "facts": small}
    if name == "wan21_t2v":
        config = {"boundary_ratio": None, "expand_timesteps": False}
        return {"channels": 16, "vae": _VAE_8X, "experts": 1, "config": config, "facts": small}
    if name in ("wan21_i2v", "wan21_flf2v"):
        config = {"boundary_ratio": None, "expand_timesteps": False}
        return {
            "channels": 36,
            "vae": _VAE_8X,
            "experts": 1,
            "config": config,
            "facts": small,
            "transformer": _LOOKS if name == "wan21_i2v" else _LOOKS_TWICE,
        }
    raise ValueError(f"layout {name!r} is none of {', '.join(LAYOUTS)}")


def make(layout: str, directory: Path, seed: int = 0, facts: bool = True) -> Path:
    """Write the checkpoint to ``directory`` and return it. ``facts=False`` leaves ``wanflow.json`` out."""
    import torch
    from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanTransformer3DModel
    from transformers import UMT5Config, UMT5EncoderModel

    wanted = _layout(layout)
    directory.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = AutoencoderKLWan(**wanted["vae"])
        latent_channels = wanted["vae"]["z_dim"]
        index: dict[str, Any] = {
            "_class_name": _pipeline(layout),
            "_diffusers_version": "0.42.1",
            **wanted["config"],
        }
        for i in range(2):
            name = "transformer" if i == 0 else "transformer_2"
            if i >= wanted["experts"]:
                index[name] = [None, None]
                continue
            expert = WanTransformer3DModel(
                **_TRANSFORMER,
                **wanted.get("transformer", {}),
                in_channels=wanted["channels"],
                out_channels=latent_channels,
            )
            _wake(expert, torch)
            expert.save_pretrained(directory / name)
            index[name] = ["diffusers", "WanTransformer3DModel"]
        text_config = UMT5Config(
            vocab_size=259,
            d_model=_TEXT_DIM,
            d_kv=8,
            d_ff=48,
            num_layers=2,
            num_heads=4,
            feed_forward_proj="gated-gelu",
        )
        text = UMT5EncoderModel(text_config).eval()
        if "transformer" in wanted:
            _save_image_encoder(directory)
            index["image_encoder"] = ["transformers", "CLIPVisionModel"]
            index["image_processor"] = ["transformers", "CLIPImageProcessor"]
    vae.save_pretrained(directory / "vae")
    text.save_pretrained(directory / "text_encoder")
    _tokenizer().save_pretrained(str(directory / "tokenizer"))
    UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=3.0
    ).save_pretrained(directory / "scheduler")
    index["vae"] = ["diffusers", "AutoencoderKLWan"]
    index["text_encoder"] = ["transformers", "UMT5EncoderModel"]
    index["tokenizer"] = ["transformers", "PreTrainedTokenizerFast"]
    index["scheduler"] = ["diffusers", "UniPCMultistepScheduler"]
    (directory / "model_index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
    if facts:
        (directory / "wanflow.json").write_text(json.dumps(wanted["facts"], indent=2) + "\n")
    return directory


def _pipeline(layout: str) -> str:
    return "WanImageToVideoPipeline" if _layout(layout)["channels"] == 36 else "WanPipeline"


def _save_image_encoder(directory: Path) -> None:
    from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(
        hidden_size=_IMAGE_DIM,
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=_IMAGE_SIDE,
        patch_size=14,
    )
    CLIPVisionModel(config).eval().save_pretrained(directory / "image_encoder")
    side = {"height": _IMAGE_SIDE, "width": _IMAGE_SIDE}
    processor = CLIPImageProcessorPil(size={"shortest_edge": _IMAGE_SIDE}, crop_size=side)
    processor.save_pretrained(str(directory / "image_processor"))


def _wake(expert: Any, torch: Any) -> None:
    """Make every input matter: at their defaults, text, image and time barely move a random expert's output."""
    with torch.no_grad():
        for name, parameter in expert.named_parameters():
            if "pos_embed" in name:  # zeros by default
                parameter.normal_()
            elif "condition_embedder" in name or "attn2" in name:
                if parameter.ndim > 1:
                    parameter.mul_(2.0)
                else:
                    parameter.add_(torch.randn_like(parameter) * 0.1)


def _tokenizer() -> Any:
    """One token a byte, ``</s>`` at the end, as UMT5's own: id 0 pads, id 1 ends."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {word: i for i, word in enumerate(["<pad>", "</s>", "<unk>", *letters])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=512,
    )
