"""``limits.max_changed`` and ``limits.max_cost``: a plan that goes further is refused before any GPU is asked for.

So is one that remakes published videos only because this wanflow renders differently from the one before (a stage's
version was raised), and one that takes away more than half of them: an export that broke off is no wish.

``--accept PLAN`` lets the plan of that id go on. The id says what will be published where, not how much of it is left
to do, so that an accepted run which was interrupted goes on under the same flag.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from wanflow.errors import Refused
from wanflow.job import Job
from wanflow.planning.changes import Reason
from wanflow.planning.cost import cost_of
from wanflow.planning.plan import Plan
from wanflow.planning.why import Why, count_reasons, explain
from wanflow.storage import Store


def check_limits(job: Job, plan: Plan, workspace: Store, accept: str | None = None) -> None:
    """Raise :class:`Refused` unless ``plan`` is within the limits of ``job`` or is the one that was accepted."""
    if accept == plan.plan_id or (plan.is_empty and not plan.to_unpublish):
        return
    whys = explain(plan, workspace) if _num_changed(plan) else []
    exceeded = [*_exceeded(job, plan), *_upgraded(plan, whys)]
    if not exceeded:
        return
    reasons = ", ".join(f"{number:,} {reason}" for reason, number in count_reasons(whys).items())
    lines = [
        "the plan goes further than it may unasked; nothing was rendered",
        *exceeded,
        *([f"why (files): {reasons}"] if reasons else []),
        f"`wanflow plan JOB --why` lists them; if it is meant, add `--accept {plan.plan_id}` to the same command",
    ]
    if accept is not None:
        lines.insert(
            1, f"--accept {accept} is another plan: the manifest, the job or the inputs have changed since"
        )
    raise Refused("\n  ".join(lines))


def _exceeded(job: Job, plan: Plan) -> Iterator[str]:
    changed, published = _num_changed(plan), _num_published(plan)
    allowed = job.limits.changes_allowed(published)
    if allowed is not None and changed > allowed:
        yield (
            f"{changed:,} of {published:,} published variants would change; limits.max_changed allows "
            f"{job.limits.max_changed}"
            + (f", {allowed:,}" if isinstance(job.limits.max_changed, str) else "")
        )
    taken_away = _num_taken_away(plan)
    if allowed is None and 2 * taken_away > published:
        yield (
            f"{taken_away:,} of {published:,} published variants would be taken away, which the job no longer asks "
            "for; without limits.max_changed at most half are"
        )
    cost = cost_of(plan, job)
    price = cost.price(cost.gpu_s)
    if job.limits.max_cost is None or price is None:
        return
    if price > job.limits.max_cost:
        yield f"it would cost about {price:,.2f}; limits.max_cost allows {job.limits.max_cost:,.2f}"
    elif cost.num_never_measured:
        yield (
            f"{cost.num_never_measured:,} clips are of an engine that was never measured here, so that nobody knows "
            "whether limits.max_cost is kept; a run with --limit measures it"
        )


def _upgraded(plan: Plan, whys: Sequence[Why]) -> Iterator[str]:
    paths = {why.path for why in whys if why.kind == "variant" and _is_upgrade(why)}
    remade = [v for v in plan.to_assemble if any(file.path in paths for file in v.files)]
    stages = {
        f"{c.what} {c.old} -> {c.new}" for why in whys for c in why.changes if c.reason is Reason.VERSION
    }
    if remade:
        yield (
            f"this wanflow renders differently from the one that published them ({', '.join(sorted(stages))}): "
            f"{len(remade):,} published variants would be made again"
        )


def _is_upgrade(why: Why) -> bool:
    return any(change.reason is Reason.VERSION for change in why.changes)


def _num_changed(plan: Plan) -> int:
    """Variants that were published and get another content, or go away. New and missing ones are no change."""
    changed = sum(
        any(
            (record := plan.published.records.get(file.path)) is not None
            and (record.key != file.key or plan.published.key_of(file.path) == file.key)
            for file in planned.files
        )
        for planned in plan.to_assemble
    )
    return changed + _num_taken_away(plan)


def _num_taken_away(plan: Plan) -> int:
    """Videos, of which a matrix makes several of one id. Each has at most one file an output."""
    num_files = Counter(
        (retired.variant_id, dict(retired.record.info).get("output")) for retired in plan.to_unpublish
    )
    num_videos: dict[str, int] = {}
    for (variant_id, _), number in num_files.items():
        num_videos[variant_id] = max(number, num_videos.get(variant_id, 0))
    return sum(num_videos.values())


def _num_published(plan: Plan) -> int:
    records = plan.published.records
    published = sum(any(path in records for _, path in v.variant.outputs) for v in plan.variants)
    return published + len(plan.unchanged) + _num_taken_away(plan)
