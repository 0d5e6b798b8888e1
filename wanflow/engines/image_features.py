"""What CLIP's image encoder sees in an image: the features that Wan 2.1's image-to-video experts attend to.

As ``WanImageToVideoPipeline.encode_image`` of diffusers has it: the hidden states before the encoder's last layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image


class ImageEncoder:
    """A CLIPVisionModel and the processor that scales pictures for it."""

    def __init__(self, processor: Any, model: Any) -> None:
        self.model = model
        self._processor = processor

    def encode(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Features of RGB images, (images, rows, width), float32 on the model's device."""
        pixels = self._processor(images=list(images), return_tensors="pt").pixel_values
        seen = self.model(pixels.to(self.model.device), output_hidden_states=True)
        features: torch.Tensor = seen.hidden_states[-2]
        return features
