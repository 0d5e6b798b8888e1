"""wanflow: a build system for generative video.

    from wanflow import Job, plan, run
    job = Job.load("jobs/ad_variants.yaml")
    outcome = run(job)

A manifest of prompts and images becomes finished videos in a bucket; run it every night and only what changed is
rendered. The names load on first use, so that importing wanflow costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wanflow.driver import plan as plan
    from wanflow.driver import run as run
    from wanflow.job import Job as Job
    from wanflow.planning import Plan as Plan
    from wanflow.report import Outcome as Outcome

__version__ = "0.1.0"

_HOMES = {
    "Job": "wanflow.job",
    "Outcome": "wanflow.report",
    "Plan": "wanflow.planning",
    "plan": "wanflow.driver",
    "run": "wanflow.driver",
}

__all__ = ["Job", "Outcome", "Plan", "__version__", "plan", "run"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'wanflow' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
