"""Assemblies as Ray tasks, a CPU each. Ray does not retry them: the scheduler does.

One that hangs (a disk or a mounted store that never answers) ends its own process, and with it the hang.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayError, RayTaskError, WorkerCrashedError

from wanflow import assemble
from wanflow.model import AssembleVariant, Attempt, Cause
from wanflow.pool import RunContext
from wanflow.pool.answers import Answers
from wanflow.pool.assembler import Assembled, Failed, assemble_variant
from wanflow.schedule.actions import Assemble
from wanflow.schedule.events import AssembleFailed, Event, VariantPublished

KIND = "assembly"
#: beside what ffmpeg may take: fetching masters, publishing, and waiting for a store that is away
OTHERWISE_S = 3600.0


def cause_of_failure(error: Exception) -> tuple[Cause, str]:
    """Why an assembly ended with ``error`` of Ray's in place of an answer, and in words.

    Ray tells a process that died from a node that is gone, by asking the node.
    """
    match error:
        case RayTaskError():  # ours, not the worker's
            return Cause.ITEM_ERROR, str(error.cause)
        case NodeDiedError():
            cause, words = Cause.NODE_LOST, "its node is gone"
        case OutOfMemoryError():
            cause, words = Cause.OUT_OF_MEMORY, "its node ran short of memory, and Ray ended it"
        case WorkerCrashedError():
            cause, words = Cause.REPLICA_LOST, "process died"
        case _:
            cause, words = Cause.REPLICA_LOST, type(error).__name__
    return cause, f"the worker that assembled it was lost: {words}"


def limit_s(task: AssembleVariant) -> float:
    """How long ``task`` may take before it counts as hung."""
    lengths = [sum(scene.seconds(file.output.aspect) for scene in task.variant.scenes) for file in task.files]
    return OTHERWISE_S + sum(map(assemble.timeout_s, lengths))


def assemble_in_time(
    context: RunContext, task: AssembleVariant, attempt: Attempt, limit_s: float
) -> Assembled | Failed:
    """:func:`assemble_variant`; a process in which it takes longer than ``limit_s`` ends without a word."""
    hung = threading.Timer(limit_s, os._exit, (1,))
    hung.daemon = True
    hung.start()
    try:
        return assemble_variant(context, task, attempt)
    finally:
        hung.cancel()


class Assemblies:
    """``shared`` is the run's context, without its tasks, in Ray's object store."""

    def __init__(
        self, context: RunContext, shared: Any, answers: Answers, clock: Callable[[], float]
    ) -> None:
        self._context, self._shared, self._answers, self._clock = context, shared, answers, clock
        remote: Any = ray.remote  # its overloads do not know our signatures
        self._assembler = remote(num_cpus=1, max_retries=0)(assemble_in_time)

    def order(self, action: Assemble) -> None:
        key, attempt, task = action.key, action.attempt, self._context.assemblies[action.key]
        since_s, limit = self._clock(), limit_s(task)

        def assembled(made: Assembled | Failed) -> Event:
            if isinstance(made, Failed):
                return AssembleFailed(
                    self._clock(), key, attempt, made.cause, made.message, made.missing, made.records
                )
            return VariantPublished(self._clock(), key, attempt, made.seconds, made.records)

        def failed(error: Exception) -> Event:
            cause, words = cause_of_failure(error)
            if isinstance(error, WorkerCrashedError) and self._clock() - since_s >= limit:
                cause, words = Cause.HUNG, f"took longer than {limit / 60:.0f} minutes, and was ended"
            return AssembleFailed(self._clock(), key, attempt, cause, words)

        reference = self._assembler.remote(self._shared, task, attempt, limit)
        self._answers.expect(reference, assembled, failed, kind=KIND)

    def cancel(self) -> None:
        """End what is under way: nobody publishes after the run has given up its lease."""
        for reference in self._answers.open(KIND):
            with suppress(RayError):
                ray.cancel(reference, force=True)
