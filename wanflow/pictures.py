"""A picture's file to the colours that it stands for: upright, 8 bits a channel, sRGB, with its transparency.

The one way from a file to pixels, for image layers, for the images that clips are made from, and for the check of both
while planning (``decoder/child.py``): a file looks alike wherever it is used, and is refused before a GPU is asked for.
Pillow's ``convert`` alone clips 16 bits, and leaves profiles out. Knows nothing of layers, clips and URLs.

Limits: the first frame of an animated picture; no wide gamut; a profile that is broken, or of another kind of colours
than the picture's, is left out, as browsers do.
"""

from __future__ import annotations

import io
from contextlib import suppress
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

#: what ffmpeg and Pillow both decode
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
_MAX_16_BITS = 65535
_NO_WHITE = "of which nobody knows what is white; save it with 8 bits"
#: how Pillow unpacks samples of PNGs to 8 bits; it leaves the transparent colour beside them in the file's own
_UNPACKED = {
    "L;2": lambda value: value * 85,
    "L;4": lambda value: value * 17,
    "RGB;16B": lambda value: value >> 8,
}


class Unusable(ValueError):
    """Pixels of which nobody can know what they look like; the words say why, and what to do."""


def upright_srgb(opened: ImageFile) -> Image:
    """``opened``, which has not been loaded yet, as RGB, or as RGBA where it can be transparent.

    Turned upright (EXIF); grey of 16 bits by its range of 0..65535; sRGB where a profile says that it is not. Raises
    :class:`Unusable`, and whatever Pillow raises for a broken file.
    """
    from PIL import ImageOps

    unpacked = _UNPACKED.get(str(opened.tile[0].args)) if opened.tile else None
    picture = ImageOps.exif_transpose(opened)
    hidden = picture.info.get("transparency")
    if unpacked is not None and hidden is not None:
        is_grey = isinstance(hidden, int)
        picture.info["transparency"] = unpacked(hidden) if is_grey else tuple(map(unpacked, hidden))
    if picture.mode == "F" or picture.mode.startswith("I"):
        picture = _eight_bits(picture)
    clear = picture.convert("RGBA") if picture.has_transparency_data else None
    if picture.mode in ("1", "L", "LA"):
        colours = picture.convert("L")
    else:
        colours = picture if picture.mode == "CMYK" else (clear or picture).convert("RGB")
    # LAB says what it looks like without a profile
    profile = None if picture.mode == "LAB" else picture.info.get("icc_profile")
    shown = _srgb(colours, profile) if profile else colours.convert("RGB")
    if clear is not None:
        shown.putalpha(clear.getchannel("A"))
    return shown


def _eight_bits(picture: Image) -> Image:
    """Grey of more than 8 bits as L, or as LA where one of its values is transparent."""
    if picture.mode == "F":
        raise Unusable(f"has fractions for pixels, {_NO_WHITE}")
    whole = picture.convert("I")
    low, high = cast("tuple[int, int]", whole.getextrema())
    if low < 0 or high > _MAX_16_BITS:
        raise Unusable(f"has pixels beyond 0 to {_MAX_16_BITS}, {_NO_WHITE}")
    levels = range(_MAX_16_BITS + 1)
    grey = whole.point([(level * 255 + _MAX_16_BITS // 2) // _MAX_16_BITS for level in levels], "L")
    if (hidden := picture.info.get("transparency")) is not None:
        grey.putalpha(whole.point([0 if level == hidden else 255 for level in levels], "L"))
    grey.info = {"icc_profile": picture.info.get("icc_profile")}
    return grey


def _srgb(colours: Image, profile: bytes) -> Image:
    """``colours`` (L, RGB or CMYK) of ``profile`` as RGB; taken as they are where it is broken or of other colours."""
    from PIL import ImageCms

    turned = None
    with suppress(ImageCms.PyCMSError, OSError):
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        turned = ImageCms.profileToProfile(colours, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    return turned or colours.convert("RGB")
