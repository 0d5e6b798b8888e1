"""A brand's own font is what is drawn, whatever its name table says: with the real ffmpeg."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.t2CharStringPen import T2CharStringPen
from fontTools.pens.ttGlyphPen import TTGlyphPen
from fontTools.ttLib import TTCollection, TTFont
from fontTools.ttLib.tables.DefaultTable import DefaultTable

from tests.assemble.conftest import Studio, read_frames, still
from wanflow.assemble import fonts
from wanflow.errors import AssembleError, InputError
from wanflow.inputs import Inputs
from wanflow.model import Output, Placement, TextLayer

LETTERS = "HOL"


def blocks(path: Path, name: str, kind: str = "glyf") -> Path:
    """A font whose letters are blocks as large as capitals; ``name`` stands in German too, and may be empty."""

    def draw(pen: TTGlyphPen | T2CharStringPen) -> None:
        pen.moveTo((50, 0))
        for point in ((50, 700), (550, 700), (550, 0)):
            pen.lineTo(point)
        pen.closePath()

    builder = FontBuilder(1000, isTTF=kind == "glyf")
    order = [".notdef", *LETTERS]
    builder.setupGlyphOrder(order)
    builder.setupCharacterMap({ord(letter): letter for letter in LETTERS})
    if kind == "glyf":
        pens = {each: TTGlyphPen(None) for each in order}
        for pen in pens.values():
            draw(pen)
        builder.setupGlyf({each: pen.glyph() for each, pen in pens.items()})
    else:
        lines = {each: T2CharStringPen(600, None) for each in order}
        for line in lines.values():
            draw(line)
        builder.setupCFF(
            "Blocks-Bold",
            {"FullName": "Blocks"},
            {each: line.getCharString() for each, line in lines.items()},
            {},
        )
    builder.setupHorizontalMetrics(dict.fromkeys(order, (600, 50)))
    builder.setupHorizontalHeader(ascent=900, descent=-300)
    builder.setupOS2(
        sTypoAscender=900, sTypoDescender=-300, usWinAscent=900, usWinDescent=300, sCapHeight=700
    )
    texts = {"en": name, "de": name}
    names = {"familyName": texts, "styleName": "Bold", "fullName": texts, "psName": name.replace(" ", "-")}
    builder.setupNameTable(names if name else {}, mac=False)
    builder.setupPost()
    builder.save(path)
    return path


def collection(path: Path, name: str) -> Path:
    made = TTCollection()
    made.fonts = [TTFont(blocks(path.with_name(f"{number}.ttf"), name)) for number in range(2)]
    made.save(path)
    return path


def share(studio: Studio, story: Output, layers: list[TextLayer]) -> tuple[float, float]:
    """How much of their box white letters fill: (above the middle, below)."""
    studio.film("still", still(72, 128))
    frame = read_frames(studio.make(layers, story, ["still"])["video"])[4]
    found = []
    for half in (frame[:240], frame[240:]):
        white = half.min(axis=-1) > 200
        rows, columns = white.any(axis=1).nonzero()[0], white.any(axis=0).nonzero()[0]
        box = white[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] if len(rows) else white
        found.append(float(box.mean()))
    return found[0], found[1]


@pytest.mark.parametrize("name", ["", "Poppins Bold", "Brand, Bold {x}"], ids=["none", "another's", "odd"])
@pytest.mark.parametrize(
    "make",
    [blocks, lambda path, name: blocks(path, name, "CFF "), collection],
    ids=["TrueType", "CFF", "collection"],
)
def test_a_brands_font_is_drawn_as_itself(
    studio: Studio, story: Output, make: Callable[[Path, str], Path], name: str
) -> None:
    """Web fonts that were cut down have no name, and a customer may have a Poppins of their own. Letters were drawn in
    another font, at the places of this one. The layer without a font keeps wanflow's.
    """
    path = make(studio.folder / "brand.ttf", name)
    Inputs(studio.folder).font("brand.ttf")
    own = TextLayer("HOLO", Placement("upper-third"), font=studio.file(path))
    drawn = share(studio, story, [own, TextLayer("HOLO", Placement("lower-third"))])
    assert drawn[0] > 0.75, "blocks"
    assert 0.2 < drawn[1] < 0.7, "letters"


def test_a_font_is_named_once_a_machine_and_keeps_its_letters(tmp_path: Path) -> None:
    path = blocks(tmp_path / "brand.ttf", "")
    made = fonts.static(path, 700)
    copy = tmp_path / "copy.ttf"
    copy.write_bytes(path.read_bytes())
    assert fonts.static(copy, 400) == made
    assert fonts.load(made).name.startswith("wanflow-")
    with TTFont(path) as before, TTFont(made) as after:
        same = [tag for tag in before.reader.keys() if tag not in ("name", "head")]  # noqa: SIM118 - no mapping
        assert all(before.reader[tag] == after.reader[tag] for tag in same)


def moved(path: Path, table: str, place: int) -> Path:
    """A font that says of ``table`` that it begins ``place`` bytes before the file's end."""
    with TTFont(blocks(path, "Brand Bold")) as font:
        font["zzzz"] = DefaultTable("zzzz")
        font["zzzz"].data = bytes(64)
        font.save(path)
    data = bytearray(path.read_bytes())
    entry = data.index(table.encode())
    data[entry + 8 : entry + 12] = (len(data) - place).to_bytes(4, "big")
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("place", [48, -100], ids=["cut short", "past the end"])
def test_a_table_that_nobody_needs_may_be_damaged(studio: Studio, story: Output, place: int) -> None:
    """FreeType and browsers draw such a font. Its clips were rendered before anybody noticed that wanflow did not."""
    path = moved(studio.folder / "brand.ttf", "zzzz", place)
    Inputs(studio.folder).font("brand.ttf")
    own = TextLayer("HOLO", Placement("upper-third"), font=studio.file(path))
    assert share(studio, story, [own])[0] > 0.75


@pytest.mark.parametrize("table", ["cmap", "glyf", "loca", "hmtx", "OS/2", "name"])
def test_a_font_without_what_is_needed_is_refused_while_planning(tmp_path: Path, table: str) -> None:
    moved(tmp_path / "brand.ttf", table, 1)
    with pytest.raises(InputError, match="is no font that can be used"):
        Inputs(tmp_path).font("brand.ttf")


def test_a_font_of_symbols_alone_is_refused_while_planning(tmp_path: Path) -> None:
    """It says of no character which of its symbols that is."""
    path = blocks(tmp_path / "brand.ttf", "Brand Bold")
    with TTFont(path) as font:
        font["cmap"].tables = [each for each in font["cmap"].tables if each.platformID == 3]
        font["cmap"].tables[0].platEncID = 0
        font.save(path)
    with pytest.raises(InputError, match="says of no character"):
        Inputs(tmp_path).font("brand.ttf")


def test_a_variable_font_of_which_no_weight_can_be_made_is_told_in_words(tmp_path: Path) -> None:
    path = tmp_path / "brand.ttf"
    with TTFont(fonts.packaged("rubik/Rubik[wght].ttf")) as font:
        font["gvar"] = DefaultTable("gvar")
        font["gvar"].data = b"\xff" * 20
        font.save(path)
    with pytest.raises(AssembleError, match=r"brand\.ttf is not a font that can be used"):
        fonts.static(path, 700)
