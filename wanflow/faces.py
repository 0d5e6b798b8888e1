"""A font's file to the one face that is drawn: without tables that cannot be read, under a name of its own.

The one way from a file to a face, for text layers and for their check while planning (``decoder/child.py``): a font
that cannot be used is refused before a GPU is asked for. Knows nothing of layers, weights and URLs.

Limits: that the outlines of a variable font can be had at another weight is found out when they are.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from fontTools.ttLib import TTFont

#: without which there is no layout
_NEEDED = ("head", "maxp", "name", "OS/2", "hhea", "hmtx", "cmap")
#: outlines, of which a font has some; without one that it names, its letters are other ones, or none
_OUTLINES = ("glyf", "loca", "CFF ", "CFF2", "fvar", "gvar")


def first_face(file: Path | BinaryIO) -> TTFont:
    """The first face of a TrueType or OpenType file or collection, all that is needed of it read. Close it.

    Any other table that lies outside the file is left out, as FreeType and HarfBuzz do. Raises whatever fontTools
    raises for a broken file.
    """
    from fontTools.ttLib import TTFont, TTLibError

    font = TTFont(file, fontNumber=0, recalcTimestamp=False)
    for tag in list(font.reader.keys()):
        try:
            font.reader[tag]
        except TTLibError:
            if tag in _OUTLINES:
                raise
            del font[tag]
    for tag in _NEEDED:
        font[tag]  # reading is the test
    if not font.getBestCmap():
        raise TTLibError("it says of no character how that looks")
    font.tables.clear()  # what nobody changes is saved byte for byte
    return font


def named(font: TTFont, name: str) -> bytes:
    """``font`` as a file, called ``name`` in every language and nothing else."""
    for name_id in (1, 4, 6, 16):
        font["name"].removeNames(nameID=name_id)
        font["name"].setName(name, name_id, 3, 1, 0x409)
    file = BytesIO()
    font.save(file)
    return file.getvalue()
