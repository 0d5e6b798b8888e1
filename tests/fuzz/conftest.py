"""How many inputs the doors are tried with: a few hundred each in CI, tens of thousands with WANFLOW_FUZZ=soak.

``pytest tests/fuzz`` ends with a line a door: how many inputs it was given, and how many it took.
"""

from __future__ import annotations

import os
from collections import Counter

import pytest
from hypothesis import HealthCheck, settings

#: door -> inputs, and those that passed
COUNTS: dict[str, Counter[str]] = {}

_QUIET = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much]
settings.register_profile(
    "ci", max_examples=100, deadline=None, derandomize=True, suppress_health_check=_QUIET
)
settings.register_profile("soak", max_examples=20_000, deadline=None, suppress_health_check=_QUIET)
settings.load_profile("soak" if os.environ.get("WANFLOW_FUZZ") == "soak" else "ci")


def count(door: str, outcome: str) -> None:
    """One more input of ``door``: it was ``taken`` or ``refused``."""
    COUNTS.setdefault(door, Counter())[outcome] += 1


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for door, outcomes in sorted(COUNTS.items()):
        terminalreporter.write_line(
            f"fuzz {door}: {sum(outcomes.values()):,} inputs, {outcomes['taken']:,} taken"
        )
