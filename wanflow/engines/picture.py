"""A source image's bytes to the pixels that a clip is conditioned on.

What its colours are, ``wanflow/pictures.py`` says. The image is laid on white where it is transparent, scaled so that
it covers the clip's size with its proportions kept (Lanczos), and cropped about its centre.
"""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image, ImageOps

from wanflow.errors import RenderError
from wanflow.model import Cause
from wanflow.pictures import upright_srgb


def open_cover(data: bytes, width: int, height: int) -> Image.Image:
    """The image in RGB at exactly (width, height); RenderError (bad input) when it cannot be read."""
    try:
        image = upright_srgb(Image.open(io.BytesIO(data)))
        if image.mode == "RGBA":
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return ImageOps.fit(image.convert("RGB"), (width, height), Image.Resampling.LANCZOS)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise RenderError(f"the source image cannot be read: {error}", Cause.BAD_INPUT) from error


def to_pixels(image: Image.Image) -> torch.Tensor:
    """An RGB image as (1, 3, 1, height, width) in -1..1, float32."""
    array = np.asarray(image, dtype=np.float32) / 255.0
    return torch.from_numpy(2.0 * array - 1.0).permute(2, 0, 1)[None, :, None].contiguous()
