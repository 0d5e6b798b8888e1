"""Words: measured with the fonts that draw them, stacked, neutralised, and refused when nothing can draw them."""

from __future__ import annotations

import itertools

import pytest

from wanflow.assemble import ass, fonts, text
from wanflow.assemble.text import Block, lay_out, undrawable
from wanflow.errors import AssembleError
from wanflow.model import BoxLayer, Layer, Placement, TextLayer

SIZES = [(1080, 1920), (1080, 1080), (1920, 1080), (270, 480)]


def blocks(layers: list[Layer], width: int = 1080, height: int = 1920) -> list[Block]:
    return [block for each in lay_out(layers, {}, width, height, 2.0).values() for block in each]


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("style", text.STYLES)
def test_two_hundred_characters_stay_in_the_picture(style: str, width: int, height: int) -> None:
    """The longest headline of twenty thousand is found by a customer, not by us."""
    words = (
        "Everything you need for the longest summer that we have ever had, and a little more of it " * 3
    )[:200]
    for body in (words, "W" * 200):
        [block] = blocks([TextLayer(body, Placement("lower-third"), style=style)], width, height)
        assert block.x >= 0
        assert block.y >= 0
        assert block.x + block.width <= width
        assert block.y + block.height <= height
        assert "".join(t for line in block.lines for _, t in line).replace(" ", "") == body.replace(" ", "")


def test_a_novel_is_refused_with_its_length_and_what_to_do() -> None:
    with pytest.raises(AssembleError, match=r"\(50000 characters\) does not fit .* shorten it"):
        blocks([TextLayer("word " * 9999 + "words", Placement("center"))])


@pytest.mark.parametrize("at", ["lower-third", "bottom", "top", "center", "left"])
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_layers_of_one_place_are_stacked_and_never_overlap(at: str, width: int, height: int) -> None:
    """Headlines differ in length from row to row: a fixed place for the button would cover the long ones."""
    layers: list[Layer] = [
        TextLayer("A headline that takes two lines or even three", Placement(at)),
        TextLayer("And the terms below", Placement(at), style="subhead"),
        TextLayer("Shop now", Placement(at), style="cta"),
    ]
    placed = blocks(layers, width, height)
    for upper, lower in itertools.pairwise(placed):
        assert upper.y + upper.height < lower.y
    assert placed[-1].y + placed[-1].height <= height


def test_layers_that_follow_each_other_in_time_share_their_place() -> None:
    first, second = blocks(
        [
            TextLayer("Before", Placement("center", end_s=1.0)),
            TextLayer("After!", Placement("center", start_s=1.0)),
        ]
    )
    assert first.y == pytest.approx(second.y)


def test_wide_box_lies_flush_with_the_edge() -> None:
    [box] = blocks([BoxLayer("#000000", Placement("bottom", height=0.4))])
    assert (box.x, box.y, box.width, box.height) == (0, 1152, 1080, 768)


@pytest.mark.parametrize("words", [r"\N\h{\an8}", "{\\pos(0,0)}", "a\\", "{", "}", "\\{", "\\\\N{}"])
def test_codes_of_the_script_are_only_words(words: str) -> None:
    r"""A headline `{\an8\alpha&HFF&}` must not move or hide anything, and a trailing backslash must not eat a code."""
    [block] = blocks([TextLayer(words, Placement("center"))])
    script = ass.script([block], 1080, 1920, 2.0)
    for line in script.split("[Events]")[1].splitlines()[2:]:
        body = line.split(",", 9)[9]
        *_, said = body.split("}", body.count("\\fn") + 1)
        assert said.replace("\\\u2060", "\\").replace("\\{", "{").replace("\\}", "}") == words
        unescaped = said.replace("\\{", "").replace("\\}", "").replace("\\\u2060", "")
        assert not set(unescaped) & set("{}\\")


def test_line_ends_cannot_start_an_event_of_their_own() -> None:
    [block] = blocks([TextLayer("One\r\nDialogue: 0,0:00:00.00\u2028Two\x00\x1b", Placement("center"))])
    events = ass.script([block], 1080, 1920, 2.0).split("[Events]")[1]
    assert all(line.startswith(("Dialogue: ", "Format: ")) for line in events.strip().splitlines())
    assert [t for line in block.lines for _, t in line] == ["One", "Dialogue: 0,0:00:00.00", "Two"]


@pytest.mark.parametrize(
    "words", ["Größe, Été, Łódź, naïve – „Zitat“ €99 ½", "Новая коллекция", "הקולקציה החדשה", "مجموعة جديدة"]
)
def test_packaged_fonts_draw_latin_cyrillic_hebrew_and_arabic(words: str) -> None:
    """A container has no fonts of its own: these scripts must not depend on it."""
    assert undrawable(words) == []
    [block] = blocks([TextLayer(words, Placement("center"))])
    assert {font.path.parent.name for font in block.fonts()} <= {"files", "fonts"}
    assert all(not str(font.path).startswith("/usr") for font in block.fonts())


def test_word_is_drawn_in_one_font_even_where_the_first_has_half_of_it() -> None:
    [block] = blocks([TextLayer("Cвет", Placement("center"))])  # a Latin C before Cyrillic letters
    assert len(block.fonts()) == 1


def test_character_that_no_font_has_is_named_instead_of_drawn_as_a_box() -> None:
    """Empty boxes instead of words are what a customer remembers."""
    assert undrawable("Hi \u200d\ufe0f\U00010fff there \U00010fff\x07") == ["\U00010fff"]
    with pytest.raises(
        AssembleError, match=r"no font here can draw .*U\+10FFF.* name one with the layer's `font`"
    ):
        blocks([TextLayer("Glyph \U00010fff", Placement("center"))])


def test_unknown_style_and_colour_are_named() -> None:
    with pytest.raises(AssembleError, match=r"no text style 'headlin'; styles are headline"):
        blocks([TextLayer("x", Placement("center"), style="headlin")])
    with pytest.raises(AssembleError, match=r"'red' is not a colour; write it as #rrggbb"):
        blocks([TextLayer("x", Placement("center"), color="red")])


def test_words_of_a_button_can_be_read_on_any_brand_colour() -> None:
    def drawn(background: str) -> str:
        [block] = blocks([TextLayer("Shop", Placement("center"), style="cta", background=background)])
        return ass.script([block], 1080, 1920, 2.0).strip().splitlines()[-1]

    assert "\\1c&HFFFFFF&" in drawn("#1a237e")
    assert "\\1c&H141414&" in drawn("#ffd54f")


def test_variable_font_is_fixed_at_the_weight_of_the_style() -> None:
    """libass would draw Rubik's default weight, Light, for a headline."""
    variable = fonts.packaged("rubik/Rubik[wght].ttf")
    bold, medium = fonts.static(variable, 700), fonts.static(variable, 500)
    assert bold != medium
    assert fonts.load(bold).width("Mm", 100) > fonts.load(medium).width("Mm", 100)


def test_font_that_is_none_is_named() -> None:
    with pytest.raises(AssembleError, match=r"test_text\.py is not a font"):
        fonts.load(fonts.Path(__file__))
