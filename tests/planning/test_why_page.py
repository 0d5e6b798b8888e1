"""docs/why.md shows what the command prints."""

from __future__ import annotations

from pathlib import Path

from tests.planning.why_page import PAGE, make_page, without_digests
from wanflow.planning.changes import Reason


def test_the_page_shows_what_is_printed(tmp_path: Path, checkpoint: str) -> None:
    """Words that changed in the code and not on the page would send a reader searching for them."""
    assert without_digests(PAGE.read_text()) == without_digests(make_page(tmp_path, checkpoint)), (
        "python -m tests.planning.why_page writes the page anew"
    )


def test_the_page_shows_every_kind_of_reason_that_a_row_or_the_job_can_cause() -> None:
    page = PAGE.read_text()
    seldom = {Reason.LORA, Reason.VIDEO, Reason.CHANGED}
    assert [reason.value for reason in Reason if reason not in seldom and reason.value not in page] == []
