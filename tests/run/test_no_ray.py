"""There is no Ray when a run wants it: the run ends in order, and cron is told what may help."""

from __future__ import annotations

from pathlib import Path

import pytest
import ray

from tests.checkpoints import make
from tests.run.jobs import make_job
from wanflow import run
from wanflow.errors import WanflowError
from wanflow.lease import holder_of
from wanflow.report import RunState, results, summary
from wanflow.storage import Store
from wanflow.testing import load_fake_engine


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make("pocket", tmp_path_factory.mktemp("checkpoint") / "pocket"))


@pytest.mark.parametrize(
    ("error", "code"),
    [(ConnectionError("ray client connection timeout"), 1), (ValueError("Invalid address format"), 2)],
)
def test_run_that_finds_no_ray_ends_with_an_outcome(
    tmp_path: Path, checkpoint: str, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int
) -> None:
    """The head restarts at night: exit 1, which the CronJob tries again, and `status` does not say "crashed"."""

    def init(address: str, **_: object) -> None:
        raise error

    monkeypatch.setattr(ray, "init", init)
    job = make_job(tmp_path, checkpoint)
    with pytest.raises(WanflowError, match="ray://head:10001") as raised:
        run(job, address="ray://head:10001")
    assert raised.value.exit_code == code
    workspace = Store(str(job.workspace))
    found = summary(workspace)
    assert found
    assert found.state is RunState.ENDED
    assert found.outcome
    assert found.outcome.exit_code == code
    assert str(error) in found.message
    assert {row["status"] for row in results(workspace).to_pylist()} == {"left"}
    assert holder_of(workspace, Store(job.publish.url)) is None
    assert run(job, inline=True, load_engine=load_fake_engine).counts["published"] == 3
