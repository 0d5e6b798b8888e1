"""Pocket's VAE: its configuration, its training pass over whole clips, and its loss.

diffusers runs AutoencoderKLWan chunk by chunk with cached features, which is right for long videos and slow
for training. Every layer is causal in time, so one pass over the whole clip is the same function: ``encode_whole`` and
``decode_whole`` equal ``vae.encode`` and ``vae.decode`` (a test holds them to it) at a fraction of the time.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import (
    WanMidBlock,
    WanResample,
    WanResidualBlock,
    WanRMS_norm,
    patchify,
    unpatchify,
)
from torch import Tensor

VAE_CONFIG: dict[str, Any] = {
    "base_dim": 24,
    "decoder_base_dim": 40,
    "z_dim": 16,
    "dim_mult": [1, 2, 2],
    "num_res_blocks": 1,
    "attn_scales": [],
    "temperal_downsample": [True, True],
    "patch_size": 2,
    "in_channels": 12,
    "out_channels": 12,
    "scale_factor_spatial": 8,
    "scale_factor_temporal": 4,
    "latents_mean": [0.0] * 16,
    "latents_std": [1.0] * 16,
}


def build_vae(config: dict[str, Any] | None = None) -> AutoencoderKLWan:
    """A fresh VAE; ``config`` overrides single entries. Its latents start almost without noise, or it would first
    have to learn to whisper."""
    vae = AutoencoderKLWan(**{**VAE_CONFIG, **(config or {})})
    with torch.no_grad():
        vae.quant_conv.bias[vae.config.z_dim :] = -5.0
    return vae


def encode_whole(vae: AutoencoderKLWan, video: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log variance of the latents of ``video`` (batch, 3, 4k+1, height, width) in -1..1."""
    x = vae.encoder.conv_in(patchify(video, vae.config.patch_size))
    for layer in vae.encoder.down_blocks:
        x = _down(layer, x) if isinstance(layer, WanResample) else _residual(layer, x)
    x = vae.encoder.conv_out(_norm_silu(vae.encoder.norm_out, _middle(vae.encoder.mid_block, x)))
    mean, logvar = vae.quant_conv(x).chunk(2, dim=1)
    return mean, logvar.clamp(-30.0, 20.0)


def decode_whole(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """The video of ``latents``, not clamped: what the loss needs."""
    x = _middle(vae.decoder.mid_block, vae.decoder.conv_in(vae.post_quant_conv(latents)))
    for block in vae.decoder.up_blocks:
        for resnet in block.resnets:
            x = _residual(resnet, x)
        if block.upsamplers is not None:
            x = _up(block.upsamplers[0], x)
    x = vae.decoder.conv_out(_norm_silu(vae.decoder.norm_out, x))
    video: Tensor = unpatchify(x, vae.config.patch_size)
    return video


def _middle(block: WanMidBlock, x: Tensor) -> Tensor:
    return _residual(block.resnets[1], block.attentions[0](_residual(block.resnets[0], x)))


def _residual(block: WanResidualBlock, x: Tensor) -> Tensor:
    y = block.conv1(_norm_silu(block.norm1, x))
    out: Tensor = block.conv2(_norm_silu(block.norm2, y)) + block.conv_shortcut(x)
    return out


def _norm_silu(norm: WanRMS_norm, x: Tensor) -> Tensor:
    out: Tensor = _NormSilu.apply(x, norm.gamma, norm.scale)  # type: ignore[no-untyped-call]
    return out


class _NormSilu(torch.autograd.Function):
    """silu(gamma * scale * x / |x|), the norm in float32 and the rest in the dtype of x: half the memory traffic."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: Tensor, scale: float) -> Tensor:
        inverse = (
            scale / torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=torch.float32).clamp_min(1e-12)
        ).to(x.dtype)
        unit = x * inverse
        y = unit * gamma.to(x.dtype)
        ctx.save_for_backward(unit, inverse, gamma, y)
        return torch.nn.functional.silu(y)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        unit, inverse, gamma, y = ctx.saved_tensors
        dy = torch.ops.aten.silu_backward(grads[0], y)
        du = dy * gamma.to(dy.dtype)
        dgamma = (dy * unit).sum(dim=(0, 2, 3, 4), dtype=torch.float32).view_as(gamma)
        along = (du * unit).mean(dim=1, keepdim=True, dtype=torch.float32).to(dy.dtype)
        return (du - unit * along) * inverse, dgamma, None


def _frames(layer: WanResample, x: Tensor) -> Tensor:
    b, c, t, h, w = x.shape
    y = x.permute(0, 2, 1, 3, 4).reshape(b * t, c, h, w)
    if layer.mode.startswith("upsample"):
        y = layer.resample[1](torch.nn.functional.interpolate(y, scale_factor=2.0, mode="nearest-exact"))
    else:
        y = layer.resample(y)
    out: Tensor = y.view(b, t, *y.shape[1:]).permute(0, 2, 1, 3, 4)
    return out


def _down(layer: WanResample, x: Tensor) -> Tensor:
    """The first frame passes as it is; every later output sees the input frame before its pair."""
    x = _frames(layer, x)
    if layer.mode != "downsample3d":
        return x
    return torch.cat([x[:, :, :1], layer.time_conv(x)], dim=2) if x.shape[2] > 1 else x


def _up(layer: WanResample, x: Tensor) -> Tensor:
    """The first frame stays one frame; later ones become two, by a causal convolution that starts after the first."""
    if layer.mode == "upsample3d" and x.shape[2] > 1:
        b, c, t, h, w = x.shape
        pairs = layer.time_conv(x[:, :, 1:]).view(b, 2, c, t - 1, h, w)
        later = torch.stack((pairs[:, 0], pairs[:, 1]), dim=3).reshape(b, c, 2 * (t - 1), h, w)
        x = torch.cat([x[:, :, :1], later], dim=2)
    return _frames(layer, x)


def reconstruction_loss(vae: AutoencoderKLWan, video: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """The loss and the plain mean squared error. ``noise`` has the latents' shape: chance stays with the caller.

    L1 and squared error carry the picture, L1 of differences between neighbours carries edges, a touch of KL keeps the
    latents smooth enough to be denoised.
    """
    mean, logvar = encode_whole(vae, video)
    mean, logvar = mean.float(), logvar.float()
    out = decode_whole(vae, mean + torch.exp(0.5 * logvar) * noise).float()
    loss, mse = picture_loss(out, video)
    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    return loss + 2e-4 * kl, mse


def picture_loss(out: Tensor, video: Tensor) -> tuple[Tensor, Tensor]:
    """How far a picture is from the truth, and the plain mean squared error.

    L1 and squared error, L1 on differences between neighbours for edges, and L1 on the two opponent colours
    and on coarse cells: without these a VAE this small rests for a long time on brightness and one colour
    axis, at 24 dB.
    """
    error = out - video
    mse = error.square().mean()
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    red, green, blue = error.unbind(1)
    colour = (red - green).abs().mean() + ((red + green) / 2 - blue).abs().mean()
    coarse = torch.nn.functional.avg_pool3d(error, (1, 8, 8)).abs().mean()
    return error.abs().mean() + 2 * mse + 0.5 * edges + 0.7 * colour + coarse, mse
