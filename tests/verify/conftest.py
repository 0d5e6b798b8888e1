"""A finished run of the small job, restored for every test at the same place with the same file times (and ETags)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.checkpoints import make
from tests.run.jobs import make_job
from wanflow import Job, Outcome, run
from wanflow.storage import Store
from wanflow.testing import load_fake_engine
from wanflow.verify import Finding, Report, verify


def render(job: Job, **options: object) -> Outcome:
    return run(job, inline=True, load_engine=load_fake_engine, **options)  # type: ignore[arg-type]


@dataclass
class Place:
    """The store of a finished run, and the job that it was a run of."""

    folder: Path
    job: Job

    @property
    def out(self) -> Path:
        return self.folder / "out"

    @property
    def work(self) -> Path:
        return self.out / ".wanflow"

    @property
    def workspace(self) -> Store:
        return Store(str(self.work))

    def verify(self, deep: bool = False) -> Report:
        return verify(self.workspace, [self.job.publish.url], deep=deep)

    def one(self, pattern: str) -> Path:
        """The first file of the workspace that matches."""
        return min(self.work.glob(pattern))

    def master(self) -> Path:
        """The file of a master."""
        return self.one("clips/*/*/*/master.mp4")

    def edit(self, path: Path, change: Callable[[dict[str, object]], object]) -> None:
        """Write a JSON file anew."""
        body = json.loads(path.read_text())
        change(body)
        path.write_text(json.dumps(body))


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make("pocket", tmp_path_factory.mktemp("checkpoint") / "pocket"))


@pytest.fixture(scope="session")
def _finished(tmp_path_factory: pytest.TempPathFactory, checkpoint: str) -> tuple[Path, Path, Job]:
    folder = tmp_path_factory.mktemp("finished")
    job = make_job(folder / "place", checkpoint)
    assert render(job).exit_code == 0
    shutil.copytree(folder / "place", folder / "kept")
    return folder / "place", folder / "kept", job


@pytest.fixture
def place(_finished: tuple[Path, Path, Job]) -> Place:
    folder, kept, job = _finished
    shutil.rmtree(folder)
    shutil.copytree(kept, folder)
    return Place(folder, job)


def broken(report: Report) -> dict[str, list[str]]:
    """Check -> the paths that it found broken."""
    found: dict[str, list[str]] = {}
    for check in report.checks:
        paths = [finding.path for finding in check.findings if not finding.is_warning]
        if paths:
            found[check.name] = paths
    return found


def warned(report: Report) -> dict[str, list[Finding]]:
    """Check -> its warnings."""
    found = {check.name: [f for f in check.findings if f.is_warning] for check in report.checks}
    return {name: findings for name, findings in found.items() if findings}
