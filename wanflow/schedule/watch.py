"""When copies should end, and when they are overdue: heaps over what renders now; and which replicas load for too long.

Two questions: which copies of an engine are expected to end last (the tail's stragglers) or first, and what has gone
without a step, or the end of its load, for longer than is its budget (hung). Hanging is measured on a clock of its own,
which stands still while the driver was away (a gap between two events), so that a driver that slept blames nobody.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Iterator
from itertools import islice

from wanflow.schedule.estimates import Estimates
from wanflow.schedule.policy import Policy
from wanflow.schedule.state import ClipState, Copy, ReplicaState

#: an expectation is filed anew when it moved by this share of what is left
MOVED = 0.05
#: share of a clip that must have been seen before its own pace counts for more than the estimate
OWN_PACE = 0.2
#: sums of gaps are this exact
ROUNDING_S = 1e-3

Filed = tuple[float, int, Copy]


class Watch:
    def __init__(self, policy: Policy, estimates: Estimates) -> None:
        self._policy = policy
        self._estimates = estimates
        self._last_s: float | None = None
        #: the hang clock
        self._clock_s = 0.0
        self._hangs: list[Filed] = []
        self._first: dict[str, list[Filed]] = {}
        self._latest: dict[str, list[Filed]] = {}
        #: copies that render: attempt's identity -> the end under which it is filed
        self._filed: dict[int, float | None] = {}
        self._num: dict[str, int] = {}
        self._count = 0
        #: by weights: replicas that load, oldest first, and since when on the hang clock; a plain dict is slow to say
        #: which is its first after many before it have gone
        self.loading: dict[str, OrderedDict[str, float]] = {}

    def advance(self, now_s: float) -> None:
        gap_s = 0.0 if self._last_s is None else now_s - self._last_s
        self._clock_s += min(max(gap_s, 0.0), self._policy.max_gap_s)
        self._last_s = now_s

    def begin(self, clip: ClipState, copy: Copy, now_s: float) -> None:
        """``copy`` was ordered."""
        seconds = self._estimates.seconds(clip, copy.replica, 1.0 - copy.first_share)
        if seconds is not None and copy.is_switch:
            seconds += self._estimates.switch_s()
        copy.heard_s = now_s
        copy.expected_end_s = None if seconds is None else now_s + seconds
        self._filed[id(copy)] = None
        self._num[clip.weights] = self._num.get(clip.weights, 0) + 1
        self._file(clip.weights, copy)
        copy.hang_due_s = self._clock_s + self._allowance_s(clip, copy, "", 0, 0)
        self._file_hang(copy)
        if len(self._hangs) > 4 * len(self._filed) + 64:  # mostly copies that have ended
            self._hangs = [entry for entry in self._hangs if id(entry[2]) in self._filed]
            heapq.heapify(self._hangs)

    def denoised(self, clip: ClipState, copy: Copy, now_s: float) -> None:
        """The steps of ``copy`` are behind it, and with them what a step may take."""
        copy.heard_s = now_s
        copy.hang_due_s = self._clock_s + self._allowance_s(clip, copy, "", 0, 0)

    def passed(self, copy: Copy) -> None:
        """The replica of ``copy`` has begun another clip: when ``copy`` ends says no more when the replica is free."""
        self._filed[id(copy)] = None

    def end(self, clip: ClipState, copy: Copy) -> None:
        del self._filed[id(copy)]
        self._num[clip.weights] -= 1

    def step(self, clip: ClipState, copy: Copy, now_s: float, stage: str, step: int, num_steps: int) -> None:
        """News of a copy: its end is expected anew, and it does not hang."""
        if copy.stage == stage and step > copy.step:
            self._estimates.learn_step(clip, stage, (now_s - copy.heard_s) / (step - copy.step), num_steps)
        elif copy.stage == stage and step <= copy.step:
            return  # news out of order, or twice
        copy.stage, copy.step, copy.num_steps, copy.heard_s = stage, step, num_steps, now_s
        copy.hang_due_s = self._clock_s + self._allowance_s(clip, copy, stage, step, num_steps)
        if copy.hang_due_s < copy.hang_filed_s:
            self._file_hang(copy)  # a later one is filed when the earlier comes up
        share = self._estimates.share_done(clip, stage, step, num_steps)
        if share is None:
            return
        left_s = self._estimates.seconds(clip, copy.replica, 1.0 - share)
        done, spent_s = share - copy.first_share, now_s - copy.started_s
        if done >= OWN_PACE or (left_s is None and done > 0):
            left_s = spent_s * (1.0 - share) / done
        if left_s is not None:
            copy.expected_end_s = now_s + left_s
            filed_s = self._filed[id(copy)]
            if copy.passed_s is not None:
                return
            if filed_s is None or abs(filed_s - copy.expected_end_s) > MOVED * max(left_s, 1.0):
                self._file(clip.weights, copy)

    def first(self, weights: str, now_s: float) -> Copy | None:
        """The copy of ``weights`` that should end next; None: unknown."""
        heap = self._first.get(weights, [])
        while heap:
            end_s, _, copy = heap[0]
            if self._filed.get(id(copy), -1.0) != end_s:
                heapq.heappop(heap)
            elif (
                min(end_s, copy.expected_end_s or end_s) <= now_s
            ):  # overdue: the longer it has been, the longer it may be yet
                copy.expected_end_s = now_s + max(0.5 * (now_s - copy.started_s), 1.0)
                self._file(weights, copy)
            else:
                return copy
        return None

    def latest(self, weights: str, now_s: float, num: int) -> Iterator[Copy]:
        """Up to ``num`` copies, those first that should end last."""
        self.first(weights, now_s)  # brings overdue copies up to date
        heap = self._latest.get(weights, [])
        kept: list[Filed] = []
        while heap and len(kept) < num:
            entry = heapq.heappop(heap)
            if self._filed.get(id(entry[2]), 1.0) == -entry[0]:
                kept.append(entry)
        for entry in kept:
            heapq.heappush(heap, entry)
        return iter([entry[2] for entry in kept])

    def hung(self) -> Iterator[Copy]:
        """Copies whose budget without a step is over."""
        while self._hangs and self._hangs[0][0] <= self._clock_s + ROUNDING_S:
            due_s, _, copy = heapq.heappop(self._hangs)
            if id(copy) not in self._filed or due_s != copy.hang_filed_s:
                continue
            if copy.hang_due_s > self._clock_s + ROUNDING_S:
                self._file_hang(copy)
            else:
                yield copy

    def is_heard(self, copy: Copy) -> bool:
        """Whether the budget of ``copy`` is not over yet."""
        return copy.hang_due_s > self._clock_s + ROUNDING_S

    def wait_with(self, copy: Copy, other: Copy) -> None:
        """``copy`` is silent, but not its replica, where ``other`` goes on: one may wait for the other."""
        copy.hang_due_s = other.hang_due_s
        self._file_hang(copy)

    def next_hang_s(self, now_s: float) -> float | None:
        """When ``hung`` or ``hung_loads`` should be asked at the latest, on the events' clock."""
        dues = [entry[0] for entry in self._hangs[:1]]
        for weights, names in self.loading.items():
            dues += [began_s + self._load_allowance_s(weights) for began_s in islice(names.values(), 1)]
        return now_s + max(min(dues) - self._clock_s, 0.0) if dues else None

    # -- loads --------------------------------------------------------------------------------------------------

    def begin_load(self, replica: ReplicaState) -> None:
        """The process of ``replica`` runs."""
        self.loading.setdefault(replica.weights, OrderedDict()).setdefault(replica.replica, self._clock_s)

    def load_s(self, replica: ReplicaState) -> float | None:
        """For how long ``replica`` has loaded, without the driver's own absences; None: nobody said that it does."""
        names = self.loading.get(replica.weights, OrderedDict())
        return self._clock_s - names[replica.replica] if replica.replica in names else None

    def end_load(self, replica: ReplicaState) -> None:
        """``replica`` is ready, or gone."""
        if replica.weights in self.loading:
            self.loading[replica.weights].pop(replica.replica, None)

    def hung_loads(self) -> list[str]:
        """Replicas whose budget for loading is over; they are named until they are ended."""
        found: list[str] = []
        for weights, names in self.loading.items():
            latest_s = self._clock_s + ROUNDING_S - self._load_allowance_s(weights)
            for name, began_s in names.items():
                if began_s > latest_s:
                    break
                found.append(name)
        return found

    def _load_allowance_s(self, weights: str) -> float:
        policy = self._policy
        return max(policy.hang_load_s, policy.hang_load_factor * self._estimates.longest_load_s(weights))

    # -- filing -------------------------------------------------------------------------------------------------

    def _allowance_s(self, clip: ClipState, copy: Copy, stage: str, step: int, num_steps: int) -> float:
        policy = self._policy
        step_s = self._estimates.step_s(clip, stage)
        if step_s is not None and 0 < step < num_steps:
            return max(policy.hang_floor_s, policy.hang_factor * step_s)
        # Loading experts, compiling, decoding, storing: no step tells of these.
        whole_s = self._estimates.seconds(clip, copy.replica, 1.0) or 0.0
        return max(policy.hang_first_s, policy.hang_factor * (step_s or 0.0), 2.0 * whole_s)

    def _file_hang(self, copy: Copy) -> None:
        self._count += 1
        copy.hang_filed_s = copy.hang_due_s
        heapq.heappush(self._hangs, (copy.hang_due_s, self._count, copy))

    def _file(self, weights: str, copy: Copy) -> None:
        end_s = copy.expected_end_s
        self._filed[id(copy)] = end_s
        if end_s is None:
            return
        self._count += 1
        for heaps, key in ((self._first, end_s), (self._latest, -end_s)):
            heap = heaps.setdefault(weights, [])
            heapq.heappush(heap, (key, self._count, copy))
            if len(heap) > 4 * self._num[weights] + 64:  # mostly entries that are no longer true
                sign = 1 if heaps is self._first else -1
                heap[:] = [entry for entry in heap if self._filed.get(id(entry[2])) == sign * entry[0]]
                heapq.heapify(heap)
