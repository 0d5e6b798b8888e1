"""One tiny checkpoint for all attacks, and a fresh target for each.

The proxy before the S3 server is the store tests' own.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.checkpoints import make
from tests.security.attacks import Target
from tests.store.conftest import network, proxy

__all__ = ["network", "proxy"]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make("pocket", tmp_path_factory.mktemp("checkpoint") / "pocket"))


@pytest.fixture
def target(tmp_path: Path, checkpoint: str) -> Target:
    return Target(tmp_path, checkpoint)
