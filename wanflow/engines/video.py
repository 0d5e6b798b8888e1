"""The VAE, a chunk at a time: latents to pixels and back with the model's own causal feature caches.

``AutoencoderKLWan`` walks a clip one latent frame at a time anyway and then joins everything; here each
step's frames leave at once, so a clip is never held twice. The result equals ``vae.decode`` and
``vae.encode(...).mode()`` on latents in the pipelines' normalisation (``latents_mean``, ``latents_std``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, patchify, unpatchify

from wanflow.errors import RenderError
from wanflow.model import Cause


class VideoCoder:
    """Streams through one AutoencoderKLWan, which computes on ``device``. No state between calls."""

    def __init__(self, vae: Any, device: str) -> None:
        self._vae = vae
        if device == "cpu" and torch.backends.mkldnn.is_available():
            _prefer_onednn(vae)
        shape = (1, int(vae.config.z_dim), 1, 1, 1)
        self._mean = torch.tensor(vae.config.latents_mean, dtype=torch.float32, device=device).view(shape)
        # the pipelines divide by 1/std; so do we, to the last bit
        self._scale = 1.0 / torch.tensor(vae.config.latents_std, dtype=torch.float32, device=device).view(
            shape
        )

    def decode(self, latents: torch.Tensor) -> Iterator[torch.Tensor]:
        """Pixels in -1..1, (1, 3, 1 or 4, height, width), float32. RenderError (bad output) for NaN or
        infinite latents.
        """
        if not bool(torch.isfinite(latents).all()):
            raise RenderError("the latents hold NaN or infinite numbers", Cause.BAD_OUTPUT)
        vae = self._vae
        cache: list[Any] = [None] * _num_convs(vae.decoder)
        for i in range(latents.shape[2]):
            with torch.inference_mode():
                z = latents[:, :, i : i + 1].to(vae.device, torch.float32) / self._scale + self._mean
                x = vae.decoder(
                    vae.post_quant_conv(z.to(vae.dtype)), feat_cache=cache, feat_idx=[0], first_chunk=i == 0
                )
                if vae.config.patch_size is not None:
                    x = unpatchify(x, patch_size=vae.config.patch_size)
                x = x.float().clamp(-1.0, 1.0)
                if not bool(torch.isfinite(x).all()):
                    raise RenderError("the decoder gave NaN or infinite pixels", Cause.BAD_OUTPUT)
            yield x

    def encode(self, chunks: Iterator[torch.Tensor]) -> torch.Tensor:
        """Normalised latents of pixels that come as 1 frame, then 4 at a time; the distribution's mode,
        float32.
        """
        vae = self._vae
        cache: list[Any] = [None] * _num_convs(vae.encoder)
        parts = []
        with torch.inference_mode():
            for chunk in chunks:
                x = chunk.to(vae.device, vae.dtype)
                if vae.config.patch_size is not None:
                    x = patchify(x, patch_size=vae.config.patch_size)
                moments = vae.quant_conv(vae.encoder(x, feat_cache=cache, feat_idx=[0]))
                mode = moments.chunk(2, dim=1)[0].float()
                parts.append((mode - self._mean) * self._scale)
            return torch.cat(parts, dim=2)


def _prefer_onednn(vae: torch.nn.Module) -> None:
    """For small inputs torch picks a kernel for 3-D convolutions that is 2 to 10 times slower than oneDNN's."""

    def forward(conv: torch.nn.Conv3d) -> Callable[..., torch.Tensor]:
        padding = conv.padding
        # "same" and "valid" are names that the kernel does not know; no Wan VAE uses them
        assert not isinstance(padding, str)

        def run(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
            return torch.mkldnn_convolution(x, weight, bias, padding, conv.stride, conv.dilation, conv.groups)

        return run

    for module in vae.modules():
        # the kernel's own limits: no padding modes, float32
        if isinstance(module, torch.nn.Conv3d) and module.padding_mode == "zeros":
            module._conv_forward = forward(module)  # type: ignore[method-assign]


def _num_convs(module: torch.nn.Module) -> int:
    return sum(isinstance(m, WanCausalConv3d) for m in module.modules())
