"""The benchmark of a night renders what it says, and would see a clip that came out otherwise."""

from __future__ import annotations

import pytest

from benchmarks import long_run


@pytest.mark.slow
def test_a_first_clip_that_comes_out_otherwise_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A drift that nobody sees would be a whole night of clips that nobody can make again."""
    monkeypatch.setattr(long_run, "EVERY", 2)
    (line,) = long_run.measure(2, 1)
    assert (line.clips, line.same) == (2, True)
    monkeypatch.setattr(long_run, "_latents", lambda *_: str(next(numbers)))
    numbers = iter(range(9))
    (line,) = long_run.measure(2, 1)
    assert not line.same
