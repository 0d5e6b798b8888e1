"""``wanflow verify``: is everything in the store as promised, and if not, what exactly is wrong.

Written against the store's contract (``docs/store.md``); shares no code with what writes there. :func:`verify` changes
nothing; :func:`repair` removes what the next run, or nobody, will miss. Every finding has a path and a reason. Clip
records and all runs' events are read, and publish records that their index does not know as they are listed (``deep``:
all). Listing and records are held in memory: ``benchmarks/store.py`` tells how much.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from wanflow.lease import all_leases
from wanflow.storage import Store, join
from wanflow.verify import checks, run_checks
from wanflow.verify.checks import Checked, Finding
from wanflow.verify.evidence import Evidence, gather

__all__ = ["CheckDone", "Finding", "Report", "repair", "verify"]

#: name, promise, check
CHECKS: tuple[tuple[str, str, Callable[[Evidence], Checked]], ...] = (
    ("records", "clip records can be read and are about their key", checks.check_records),
    ("payloads", "files that clip records name are there, whole", checks.check_payloads),
    ("publish-records", "publish records can be read and lie in their place", checks.check_publish_records),
    ("index", "the index repeats publish records as they are (--deep)", checks.check_index),
    ("visible", "visible files are as their records say", checks.check_visible),
    ("foreign", "visible files have a record", checks.check_foreign),
    ("half-made", "no write was left half-way", checks.check_half_made),
    ("catalog", "the catalog lists what is live", checks.check_catalog),
    ("results", "the newest results agree with the store", run_checks.check_results),
    ("plan", "every planned variant has a row", run_checks.check_plan),
    ("ledger", "attempts were ordered before they began", run_checks.check_ledger),
    ("rendered-once", "no clip was rendered after its record", run_checks.check_rendered_once),
    ("epochs", "every run had an epoch of its own", run_checks.check_epochs),
    ("lease", "leases can be read and show life", run_checks.check_lease),
    ("inputs", "staged inputs are whole", checks.check_inputs),
    ("failures", "remembered failures say why", checks.check_failures),
    ("leftovers", "no steps of finished clips, no files of attempts that lost", checks.check_leftovers),
    ("layout", "the contract names every file", checks.check_layout),
)


@dataclass(frozen=True, slots=True)
class CheckDone:
    """One promise, and how far it is kept."""

    name: str
    promise: str
    num_checked: int
    findings: tuple[Finding, ...]

    @property
    def state(self) -> str:
        """``ok``, ``warn`` or ``fail``."""
        if any(not finding.is_warning for finding in self.findings):
            return "fail"
        return "warn" if self.findings else "ok"


@dataclass(frozen=True, slots=True)
class Report:
    """What was found, and what was removed because of an earlier look."""

    checks: tuple[CheckDone, ...]
    deep: bool
    repaired: tuple[str, ...] = ()

    @property
    def is_clean(self) -> bool:
        """No promise is broken; warnings may be there."""
        return all(check.state != "fail" for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        return {
            "event": "Verified",
            "clean": self.is_clean,
            "deep": self.deep,
            "checks": [
                {
                    "name": check.name,
                    "state": check.state,
                    "checked": check.num_checked,
                    "findings": [
                        {
                            "path": finding.path,
                            "reason": finding.reason,
                            "warning": finding.is_warning,
                            "todo": finding.todo,
                            "repairable": bool(finding.remove or finding.discard),
                        }
                        for finding in check.findings
                    ],
                }
                for check in self.checks
            ],
            "repaired": list(self.repaired),
        }


def verify(workspace: Store, target_urls: Iterable[str] = (), *, deep: bool = False) -> Report:
    """Check every promise. ``target_urls``: publish.urls beside those that the workspace's results name.

    ``deep`` reads every payload and visible file to compare its hash. StoreError when the store cannot be read.
    """
    return _check(gather(workspace, target_urls, deep), deep)


def repair(
    workspace: Store,
    target_urls: Iterable[str] = (),
    *,
    deep: bool = False,
    on_wait: Callable[[str], object] | None = None,
) -> Report:
    """Remove broken records, so that the next run makes their files again, and leftovers; then look again.

    Waits until no run is at work. Nothing is uploaded, and no visible file is touched: a run is what makes files. A
    write that did not end goes when it is an hour old and, below a publish.url, of a file that a record names.
    """
    wanted = list(target_urls)
    with all_leases(workspace, "verify", on_wait):
        done = _remove(workspace, _check(gather(workspace, wanted, deep), deep))
    after = verify(workspace, wanted, deep=deep)
    return Report(after.checks, deep, tuple(done))


def _check(evidence: Evidence, deep: bool) -> Report:
    done = []
    for name, promise, check in CHECKS:
        number, findings = check(evidence)
        done.append(CheckDone(name, promise, number, tuple(findings)))
    return Report(tuple(done), deep)


def _remove(workspace: Store, report: Report) -> list[str]:
    done: dict[str, str] = {}
    for check in report.checks:
        for finding in check.findings:
            for path in finding.remove:
                if path not in done:
                    workspace.delete(path)
                    done[path] = f"removed {path}: {finding.reason}"
            if finding.discard:
                store, write = finding.discard
                store.discard(write)
                done[finding.path + write.upload_id] = (
                    f"discarded {join(store.url, write.path)}: {finding.reason}"
                )
    if any(path.startswith("published/") for path in done):
        for stat in list(workspace.list()):  # caches of those records
            if stat.path.startswith("published-"):
                workspace.delete(stat.path)
    return list(done.values())
