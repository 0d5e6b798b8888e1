"""Line breaking: whatever a marketing team writes, it stays in its box and reads well."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from wanflow.assemble.wrap import Fitted, clusters, fit


def em(text: str) -> float:
    """Half an em a character: a font that is easy to reckon with."""
    return 0.5 * len(text)


def fitted(
    text: str, width: float = 400, height: float = 400, size: float = 40, max_lines: int = 3
) -> Fitted:
    found = fit([text], em, width, height, size, 1.2, max_lines, 4)
    assert found is not None
    return found


def lines_of(text: str, **box: float) -> tuple[str, ...]:
    [lines] = fitted(text, **box).lines
    return lines


def test_short_words_keep_their_size_and_line() -> None:
    assert fitted("Run lighter") == Fitted(40, (("Run lighter",),))


def test_lines_are_balanced_so_that_no_word_is_left_alone() -> None:
    """ "Go further every single / day" reads like an accident."""
    assert lines_of("Go further every day x") == ("Go further", "every day x")


def test_line_breaks_of_the_user_are_kept() -> None:
    assert lines_of("Less\nis more") == ("Less", "is more")


def test_words_shrink_before_they_are_cut() -> None:
    whole = fitted("Donaudampfschifffahrt")
    assert whole.lines == (("Donaudampfschifffahrt",),)
    assert whole.size < 40
    assert len(lines_of("x" * 200)) > 1, "a monster is cut"


def test_chinese_breaks_anywhere_but_before_its_full_stop() -> None:
    lines = lines_of("一二三四五六七八九十一二三四五六七八九十。一二三四五", width=400, max_lines=3)
    assert len(lines) > 1
    assert not any(line.startswith("。") for line in lines)


def test_marks_and_joined_emoji_stay_with_their_character() -> None:
    assert clusters("e\u0301a") == ["e\u0301", "a"]
    assert clusters("👩\u200d🚀x") == ["👩\u200d🚀", "x"]


def test_what_cannot_be_read_is_refused() -> None:
    assert fit(["word " * 2000], em, 400, 400, 40, 1.2, 3, 10) is None


@settings(max_examples=150, deadline=None)
@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=120))
def test_nothing_ever_leaves_its_box(text: str) -> None:
    found = fit([text], em, 300, 300, 60, 1.2, 3, 2)
    if found is not None:
        [lines] = found.lines
        assert all(em(line) * found.size <= 300 or len(clusters(line)) == 1 for line in lines)
        assert len(lines) * 1.2 * found.size <= 300


def test_several_texts_have_the_size_of_the_one_that_needs_most() -> None:
    """Captions of one film in three sizes look like a ransom note."""
    short, long = "Run", "Everything you need for the longest summer that we have ever had, and more"
    alone = fitted(long)
    both = fit([short, long], em, 400, 400, 40, 1.2, 3, 4)
    assert alone.size < 40
    assert both == Fitted(alone.size, ((short,), *alone.lines))
    assert fit([short, "word " * 2000], em, 400, 400, 40, 1.2, 3, 10) is None
