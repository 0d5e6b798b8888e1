"""The benchmark of profiles runs on the packaged checkpoint and says what it is asked for."""

from __future__ import annotations

import json

import pytest

from benchmarks import profiles


def test_it_prints_a_line_a_setting_and_the_same_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    """One command gives the table that the README shows."""
    profiles.main(
        ["--clips", "1", "--threads", "1", "--settings", "1:0", "0.5:0.3", "1:0:2", "--turbo", "--json"]
    )
    lines = capsys.readouterr().out.splitlines()
    exact, same, fast, taylor, turbo = json.loads(lines[-1])
    assert len(lines) == 1 + 5 + 1
    assert [line["profile"] for line in (exact, fast, turbo)] == ["exact", "fast", "turbo, not distilled"]
    assert (taylor["taylor_low"], taylor["forwards"]) == (2, exact["forwards"])
    assert 0 < taylor["skipped"] < 1
    assert exact["latents"] == same["latents"] == 0.0, "a profile without shortcuts is exact"
    assert exact["seconds_ratio"] == 1.0
    assert fast["forwards"] < exact["forwards"] == same["forwards"]
    assert 0 < fast["latents"] < 1
    assert fast["skipped"] > 0
    assert fast["psnr_db"] < exact["psnr_db"]
    assert turbo["forwards"] == 4
