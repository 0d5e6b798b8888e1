from __future__ import annotations

import pytest

from tests.checkpoints import make


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny random checkpoint; nothing here loads its weights."""
    return str(make("pocket", tmp_path_factory.mktemp("checkpoint") / "pocket"))
