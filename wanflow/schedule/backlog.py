"""Clips that wait, and which of them is next: priority, then the group that a replica is in, longest expected first.

Clips of one group and kind are a class; they share whatever is learnt about their seconds, so a class is a heap that
never has to be sorted anew, and a bucket (one priority of one engine) finds the class whose first clip is longest in
heaps of classes. Entries are lazy: what has become untrue is dropped when it comes up. A question costs the logarithm
of the number of clips, whatever is learnt in between.

Knows no replicas: whom a clip suits is asked of the caller.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from itertools import islice

from wanflow.schedule.estimates import Estimates
from wanflow.schedule.state import ClipState, ClipStatus

#: clips (and classes of a group) that are looked at for one replica, before it is left without
MAX_LOOKS = 64
#: a kind's classes are looked at again when what was learnt makes their clips longer by this factor
LONGER = 1.02

#: (group, kind)
Class = tuple[str, str]
#: (-expected work, position in the plan, key)
Entry = tuple[float, int, str]


class Answer(Enum):
    TAKE = "take"
    #: not for this replica; it stays
    SKIP = "skip"
    #: for nobody any more
    DROP = "drop"


@dataclass(slots=True)
class _Bucket:
    classes: dict[Class, list[Entry]] = field(default_factory=dict)
    #: group -> its classes
    groups: dict[str, dict[Class, None]] = field(default_factory=dict)
    #: (-seconds of the first clip, class), of kinds that were rendered
    seen: list[tuple[float, Class]] = field(default_factory=list)
    #: (-nominal work of the first clip, class), of the others: one ratio for all of them cannot change their order
    unseen: list[tuple[float, Class]] = field(default_factory=list)


class Backlog:
    """``clips`` is the scheduler's own table of clips."""

    def __init__(self, clips: Mapping[str, ClipState], estimates: Estimates) -> None:
        self._clips = clips
        self._estimates = estimates
        #: waiting clip -> its expected work when it was queued
        self._queued: dict[str, float] = {}
        self._buckets: dict[tuple[str, int], _Bucket] = {}
        #: weights -> heap of -priority of its buckets
        self._priorities: dict[str, list[int]] = {}
        #: weights -> clips that come behind all others: those whose trunk is being made, then those that come last
        self._behind: dict[str, dict[str, None]] = {}
        self._last: dict[str, dict[str, None]] = {}
        self._num: dict[str, int] = {}
        self._work: dict[str, float] = {}
        #: kind -> buckets and classes that have clips of it
        self._places: dict[str, dict[tuple[str, int, Class], None]] = {}
        #: kind -> the ratio at which its classes were looked at last
        self._looked: dict[str, float] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._queued

    def num(self, weights: str) -> int:
        return self._num.get(weights, 0)

    def work(self, weights: str) -> float:
        """Expected work that waits, in the unit of ``nominal``."""
        return max(self._work.get(weights, 0.0), 0.0)

    def push(self, clip: ClipState, last: bool = False, behind: bool = False) -> None:
        """Let ``clip`` wait. ``behind``: all others, until ``advance``; ``last``: even those, until ``release``."""
        assert clip.status is ClipStatus.PENDING, clip
        assert clip.key not in self._queued, clip
        self._queued[clip.key] = clip.left_nominal
        self._num[clip.weights] = self._num.get(clip.weights, 0) + 1
        self._work[clip.weights] = self._work.get(clip.weights, 0.0) + clip.left_nominal
        if last or behind:
            (self._last if last else self._behind).setdefault(clip.weights, {})[clip.key] = None
        else:
            self._insert(clip)

    def advance(self, clip: ClipState) -> None:
        """A clip that waits behind others takes its usual place."""
        if clip.key in self._behind.get(clip.weights, ()):
            del self._behind[clip.weights][clip.key]
            self._insert(clip)

    def discard(self, clip: ClipState) -> None:
        """Forget a clip, if it waits."""
        if (work := self._queued.pop(clip.key, None)) is not None:
            self._num[clip.weights] -= 1
            self._work[clip.weights] -= work
            for tier in (self._behind, self._last):
                tier.get(clip.weights, {}).pop(clip.key, None)

    def release(self) -> None:
        """Clips that were to come last take their usual places."""
        for waiting in self._last.values():
            for key in waiting:
                self._insert(self._clips[key])
            waiting.clear()

    def learnt(self, kind: str) -> None:
        """The ratio of ``kind`` has changed: its classes may have become longer than others."""
        ratio = self._estimates.ratio(kind, "") or 0.0
        if ratio < self._looked.get(kind, 0.0) * LONGER:
            return
        self._looked[kind] = ratio
        for weights, priority, name in self._places.get(kind, ()):
            bucket = self._buckets[weights, priority]
            heapq.heappush(bucket.seen, (bucket.classes[name][0][0] * ratio, name))

    def take(
        self,
        weights: str,
        accept: Callable[[ClipState], Answer],
        group: str | None,
        stays: Callable[[ClipState, ClipState], bool],
    ) -> ClipState | None:
        """Remove and return the next clip that ``accept`` takes, of the first MAX_LOOKS.

        ``stays(own, longest)``: whether a replica in ``group`` should rather render ``own``, the longest of its group.
        """
        skipped: list[tuple[ClipState, dict[str, None] | None]] = []
        taken: ClipState | None = None
        while taken is None and len(skipped) < MAX_LOOKS and (found := self._pop(weights, group, stays)):
            answer = accept(found[0])
            if answer is Answer.SKIP:
                skipped.append(found)
                continue
            self.discard(found[0])
            taken = found[0] if answer is Answer.TAKE else None
        for clip, tier in skipped:
            if tier is not None:
                tier[clip.key] = None
            else:
                self._insert(clip)
        return taken

    # -- the heaps ----------------------------------------------------------------------------------------------

    def _insert(self, clip: ClipState) -> None:
        place = (clip.weights, clip.priority)
        bucket = self._buckets.get(place)
        if bucket is None:
            bucket = self._buckets[place] = _Bucket()
            heapq.heappush(self._priorities.setdefault(clip.weights, []), -clip.priority)
        name = (clip.group, clip.kind)
        heap = bucket.classes.setdefault(name, [])
        entry = (-self._queued[clip.key], clip.position, clip.key)
        heapq.heappush(heap, entry)
        if heap[0] == entry:
            bucket.groups.setdefault(clip.group, {})[name] = None
            self._places.setdefault(clip.kind, {})[*place, name] = None
            if self._estimates.is_seen(clip.kind):
                heapq.heappush(bucket.seen, (self._length(clip.weights, name, entry), name))
            else:
                heapq.heappush(bucket.unseen, (entry[0], name))

    def _pop(
        self, weights: str, group: str | None, stays: Callable[[ClipState, ClipState], bool]
    ) -> tuple[ClipState, dict[str, None] | None] | None:
        """Take the next clip out of the heaps, though it still counts as waiting; and where it was behind others."""
        priorities = self._priorities.get(weights, [])
        while priorities:
            place = (weights, -priorities[0])
            name = self._longest(place)
            if name is None:
                heapq.heappop(priorities)
                del self._buckets[place]
                continue
            own = self._longest_of(place, group) if group is not None and group != name[0] else None
            if own is not None and stays(self._first(place, own), self._first(place, name)):
                name = own
            clip = self._first(place, name)
            heapq.heappop(self._buckets[place].classes[name])
            self._head(place, name)
            return clip, None
        for tier in (self._behind.get(weights), self._last.get(weights)):
            if tier:
                key = next(iter(tier))
                del tier[key]
                return self._clips[key], tier
        return None

    def _longest(self, place: tuple[str, int]) -> Class | None:
        """The class whose first clip takes longest."""
        bucket = self._buckets[place]
        for heap, is_seen in ((bucket.seen, True), (bucket.unseen, False)):
            while heap:
                length, name = heap[0]
                entry = self._head(place, name)
                if entry is None or self._estimates.is_seen(name[1]) is not is_seen:
                    heapq.heappop(heap)
                    continue
                now = self._length(place[0], name, entry) if is_seen else entry[0]
                if now == length:
                    break
                heapq.heapreplace(heap, (now, name))
        if not bucket.seen or not bucket.unseen:
            heads = bucket.seen or bucket.unseen
            return heads[0][1] if heads else None
        (seen_length, seen), (work, unseen) = bucket.seen[0], bucket.unseen[0]
        return seen if seen_length <= work * (self._estimates.ratio(unseen[1], place[0]) or 1.0) else unseen

    def _longest_of(self, place: tuple[str, int], group: str) -> Class | None:
        """The same among the first few classes of ``group``."""
        best: tuple[float, Class] | None = None
        for name in list(islice(self._buckets[place].groups.get(group, ()), MAX_LOOKS)):
            entry = self._head(place, name)
            if entry is not None and (best is None or self._length(place[0], name, entry) < best[0]):
                best = (self._length(place[0], name, entry), name)
        return best[1] if best else None

    def _first(self, place: tuple[str, int], name: Class) -> ClipState:
        return self._clips[self._buckets[place].classes[name][0][2]]

    def _length(self, weights: str, name: Class, entry: Entry) -> float:
        return entry[0] * (self._estimates.ratio(name[1], weights) or 1.0)

    def _head(self, place: tuple[str, int], name: Class) -> Entry | None:
        """The first entry of a class that is still true; a class without one is forgotten."""
        bucket = self._buckets[place]
        heap = bucket.classes.get(name)
        if heap is None:
            return None
        while heap and self._queued.get(heap[0][2]) != -heap[0][0]:
            heapq.heappop(heap)
        if heap:
            return heap[0]
        del bucket.classes[name]
        bucket.groups[name[0]].pop(name, None)
        if not bucket.groups[name[0]]:
            del bucket.groups[name[0]]
        self._places[name[1]].pop((*place, name), None)
        return None
