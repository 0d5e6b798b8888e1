"""Image layers made ready for ffmpeg: decoded, upright, sRGB, at their final size, as PNG with alpha.

ffmpeg never parses a user's picture: Pillow has checked it, and a CMYK logo or a phone's rotated JPEG comes out right.
Limits: the first frame of an animated picture; no wide gamut.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from wanflow.assemble import layout
from wanflow.errors import AssembleError
from wanflow.model import ImageLayer

if TYPE_CHECKING:
    from PIL.Image import Image


def prepare(layer: ImageLayer, source: Path, target: Path, width: int, height: int) -> tuple[int, int]:
    """Writes ``source`` as it lies on a ``width`` x ``height`` output to ``target`` (PNG); its top left corner.

    Raises :class:`AssembleError` when it cannot be decoded.
    """
    from PIL import Image, ImageOps

    name = Path(layer.image.url).name
    layout.check_anchor(layer.place.at)
    try:
        with Image.open(source) as opened:
            picture = _srgb(ImageOps.exif_transpose(opened)).convert("RGBA")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise AssembleError(
            f"layers: the image {name} cannot be decoded ({error}); save it anew as PNG or JPEG"
        ) from None
    size = layout.fit_image(layer.place, picture.width, picture.height, width, height)
    # premultiplied, so that colours under transparent pixels do not bleed into the edges
    picture = picture.convert("RGBa").resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0).convert("RGBA")
    if layer.place.opacity < 1:
        picture.putalpha(picture.getchannel("A").point(lambda a: round(a * max(layer.place.opacity, 0.0))))
    picture.save(target, compress_level=1)
    x, y = layout.position(layer.place, *size, width, height)
    return round(x), round(y)


def _srgb(picture: Image) -> Image:
    """The picture's colours as sRGB, where it carries a profile that says otherwise."""
    from PIL import ImageCms

    profile = picture.info.get("icc_profile")
    if not profile:
        return picture
    alpha = picture.getchannel("A") if "A" in picture.getbands() else None
    base = picture.convert("RGB") if picture.mode not in ("RGB", "CMYK", "L") else picture
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        turned = ImageCms.profileToProfile(base, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except ImageCms.PyCMSError:
        return picture  # a broken or mismatched profile: its numbers are taken as sRGB, as browsers do
    if turned is None:
        return picture
    if alpha is not None:
        turned.putalpha(alpha)
    return turned
