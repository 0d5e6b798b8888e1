"""Fonts: which file draws which character, and the numbers of that file that a layout needs.

The packaged fonts are Poppins (the look) and Rubik (Cyrillic, Hebrew, Arabic), both under the Open Font License, from
the wheels ``fontpkg-poppins`` and ``fontpkg-rubik``. What they lack (CJK, Thai, Greek, ...) is looked for in the
system's fonts; what nobody has is reported, never drawn as an empty box.

A layer's own font, and any variable one, is turned into a static file of the wanted weight once a machine, because
libass draws a variable font at its default weight only, and another font in place of one that has no name, or that of
another. Knows nothing of video. Limits: colour emoji fonts are not used, because libass cannot draw them; Han
characters take the first system font that has them, whatever the language.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from wanflow.errors import AssembleError
from wanflow.faces import first_face, named

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

#: Weight of each style's words, as CSS counts.
WEIGHT_NAMES = {400: "Regular", 500: "Medium", 600: "SemiBold", 700: "Bold"}
#: Tables of fonts that hold bitmaps or layered colours instead of outlines.
_COLOUR_TABLES = ("CBDT", "sbix", "COLR")


@dataclass(frozen=True, eq=False)
class FontFile:
    """One face of one font file."""

    path: Path
    index: int
    #: the name by which libass finds exactly this face
    name: str
    #: ASS counts a font's size from top to bottom of its line box: this many times its em
    line_em: float
    #: distances from the baseline in em: bottom of the line box (positive, downward) and height of a capital letter
    descent_em: float
    cap_em: float
    codepoints: frozenset[int]
    #: of the em, for measuring
    measure: FreeTypeFont

    def width(self, text: str, size: float) -> float:
        """Advance width of ``text`` at ``size`` pixels an em. Unshaped, so joined scripts come out a little wide."""
        return float(self.measure.getlength(text)) * size / _MEASURE_EM


_MEASURE_EM = 1000


@lru_cache(maxsize=256)
def load(path: Path, index: int = 0) -> FontFile:
    """Reads a font file (TrueType, OpenType, collection). Raises :class:`AssembleError` when it is not one."""
    from fontTools.ttLib import TTFont, TTLibError
    from PIL import ImageFont

    try:
        with TTFont(path, fontNumber=index, lazy=True) as font:
            names, os2, hhea = font["name"], font["OS/2"], font["hhea"]
            em = font["head"].unitsPerEm
            postscript = str(names.getDebugName(6) or "")
            full = str(names.getDebugName(4) or postscript)
            ascent, descent = os2.usWinAscent, os2.usWinDescent
            if ascent + descent == 0:
                ascent, descent = hhea.ascent, -hhea.descent
            cap = getattr(os2, "sCapHeight", 0) or 0.7 * em
            return FontFile(
                path=path,
                index=index,
                name=(postscript if "CFF " in font else full).replace(",", " "),
                line_em=(ascent + descent) / em,
                descent_em=descent / em,
                cap_em=cap / em,
                codepoints=frozenset()
                if any(t in font for t in _COLOUR_TABLES)
                else frozenset(font.getBestCmap()),
                measure=ImageFont.truetype(path, _MEASURE_EM, index, layout_engine=ImageFont.Layout.BASIC),
            )
    except (TTLibError, KeyError, OSError, ValueError, TypeError) as error:
        message = f"{path.name} is not a font that can be used ({error}); give a .ttf, .otf or .ttc file"
        raise AssembleError(message) from None


def base_font() -> FontFile:
    """The font that a script names where nothing is written: libass asks for one even to draw a box."""
    return load(packaged("poppins/Poppins-Medium.ttf"))


def chain(weight: int, own: Path | None) -> tuple[FontFile, ...]:
    """The fonts to try first: the layer's own, then Poppins. :func:`font_for` knows what comes after them."""
    poppins = load(packaged(f"poppins/Poppins-{WEIGHT_NAMES[weight]}.ttf"))
    return (load(static(own, weight)), poppins) if own is not None else (poppins,)


@lru_cache(maxsize=8)
def packaged(name: str) -> Path:
    """A font file of the packaged wheels, such as ``poppins/Poppins-Bold.ttf``."""
    family, file = name.split("/")
    return Path(str(resources.files(f"fontpkg_{family}"))) / "files" / file


@lru_cache(maxsize=64)
def static(path: Path, weight: int) -> Path:
    """The first face of ``path``, at this weight where it is variable, in a file of its own, made once and kept in the
    user's cache. Its name is that of no other font: libass finds fonts by it, and a web font's may be empty.
    """
    from fontTools.varLib import instancer

    try:
        with first_face(path) as font:
            axes = {axis.axisTag: axis for axis in font["fvar"].axes} if "fvar" in font else {}
            limits = {tag: axis.defaultValue for tag, axis in axes.items()}
            if "wght" in axes:
                limits["wght"] = max(axes["wght"].minValue, min(weight, axes["wght"].maxValue))
            digest = hashlib.sha256(path.read_bytes() + repr(sorted(limits.items())).encode()).hexdigest()[
                :20
            ]
            target = cache_dir() / f"{digest}.ttf"
            if target.exists():
                return target
            if axes:
                instancer.instantiateVariableFont(font, limits, inplace=True)
            made = named(font, f"wanflow-{digest}")
    except (MemoryError, OSError):
        raise
    except Exception as error:  # noqa: BLE001 - whatever a broken file makes a library raise
        message = f"{path.name} is not a font that can be used ({error}); give a .ttf, .otf or .ttc file"
        raise AssembleError(message) from None
    with tempfile.NamedTemporaryFile(dir=target.parent, suffix=".tmp", delete=False) as part:
        part.write(made)
    os.replace(part.name, target)
    return target


def cache_dir() -> Path:
    """``$XDG_CACHE_HOME/wanflow/fonts``, or a place under the temporary directory when the home cannot be written."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wanflow" / "fonts"
    try:
        base.mkdir(parents=True, exist_ok=True)
        if os.access(base, os.W_OK):
            return base
    except OSError:
        pass  # a read-only home is common in containers; the temporary directory does as well
    base = Path(tempfile.gettempdir()) / f"wanflow-fonts-{os.getuid() if hasattr(os, 'getuid') else 0}"
    base.mkdir(parents=True, exist_ok=True, mode=0o700)
    return base


def ignorable(char: str) -> bool:
    """Characters that draw nothing and need no glyph: joiners, direction marks, variation selectors."""
    return (
        char in "\u200b\u200c\u200d\u2060\u00ad"
        or "\ufe00" <= char <= "\ufe0f"
        or unicodedata.category(char) == "Cf"
    )


def font_for(char: str, fonts: tuple[FontFile, ...], weight: int) -> FontFile | None:
    """The first of ``fonts`` that has ``char``, else a system font that has it, else None."""
    code = ord(char)
    for font in fonts:
        if code in font.codepoints:
            return font
    rubik = packaged("rubik/Rubik[wght].ttf")
    if code in load(rubik).codepoints:
        return load(static(rubik, weight))
    return system_font(code, weight)


@lru_cache(maxsize=4096)
def system_font(code: int, weight: int) -> FontFile | None:
    """The system's best font for a character: Noto first, upright sans before serif and mono, then the weight."""
    for path, index in _system_faces(weight >= 600):
        try:
            font = load(path, index)
        except AssembleError:
            continue  # a broken font on the system is not the user's business
        if font.name and code in font.codepoints:
            return font
    return None


def system_folders() -> list[Path]:
    """Where this platform keeps fonts."""
    home = Path.home()
    if sys.platform == "darwin":
        folders = [Path("/System/Library/Fonts"), Path("/Library/Fonts"), home / "Library/Fonts"]
    elif sys.platform == "win32":
        folders = [Path(os.environ.get("WINDIR", "C:/Windows")) / "Fonts"]
    else:
        folders = [
            Path("/usr/share/fonts"),
            Path("/usr/local/share/fonts"),
            home / ".local/share/fonts",
            home / ".fonts",
        ]
    return [folder for folder in folders if folder.is_dir()]


@lru_cache(maxsize=2)
def _system_faces(bold: bool) -> tuple[tuple[Path, int], ...]:
    files = sorted(
        path
        for folder in system_folders()
        for path in folder.rglob("*")
        if path.suffix.lower() in (".ttf", ".otf", ".ttc")
    )
    return tuple(face for path in sorted(files, key=lambda p: _rank(p, bold)) for face in _faces(path))


def _faces(path: Path) -> Iterator[tuple[Path, int]]:
    count = 1
    if path.suffix.lower() == ".ttc":
        head = path.open("rb").read(12)
        count = max(1, min(int.from_bytes(head[8:12], "big"), 16))
    for index in range(count):
        yield path, index


def _rank(path: Path, bold: bool) -> tuple[int, str]:
    name = path.stem.lower()
    points = 0 if "noto" in name else 4
    points += 8 * any(word in name for word in ("serif", "mono", "italic", "oblique", "emoji", "math"))
    points += 6 * any(word in name for word in ("thin", "light", "condensed"))
    points += 2 * (("bold" in name or "black" in name) != bold)
    return points, str(path)
