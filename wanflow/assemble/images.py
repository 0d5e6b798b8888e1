"""Image layers made ready for ffmpeg: at their final size, as PNG with alpha.

ffmpeg never parses a user's picture: Pillow has checked it, and ``pictures.py`` says what its colours are.
"""

from __future__ import annotations

from pathlib import Path

from wanflow.assemble import layout
from wanflow.errors import AssembleError
from wanflow.model import ImageLayer


def prepare(layer: ImageLayer, source: Path, target: Path, width: int, height: int) -> tuple[int, int]:
    """Writes ``source`` as it lies on a ``width`` x ``height`` output to ``target`` (PNG); its top left corner.

    Raises :class:`AssembleError` when it cannot be decoded.
    """
    from PIL import Image

    from wanflow.pictures import upright_srgb

    name = Path(layer.image.url).name
    layout.check_anchor(layer.place.at)
    try:
        with Image.open(source) as opened:
            picture = upright_srgb(opened).convert("RGBA")
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
