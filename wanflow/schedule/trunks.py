"""Who makes a trunk, and who waits behind others until it is there.

A trunk's first clip makes it. The others of its group come behind all other work until news tells that it is there, and
no further: a replica with nothing else to do takes one of them and makes the trunk a second time, which ends no later
than waiting for it and beginning then. Knows what waits and nothing of replicas.
"""

from __future__ import annotations

from collections.abc import Mapping

from wanflow.schedule.backlog import Backlog
from wanflow.schedule.state import ClipState, ClipStatus


class Trunks:
    """``clips`` is the scheduler's own table of clips."""

    def __init__(self, clips: Mapping[str, ClipState], backlog: Backlog) -> None:
        self._clips, self._backlog = clips, backlog
        #: trunks that are not there yet -> the clip that is to make each
        self._makers: dict[str, str] = {}
        #: clips by trunk, in the plan's order
        self._group: dict[str, list[str]] = {}

    def add(self, clip: ClipState) -> None:
        """A clip of the plan that has a trunk."""
        self._group.setdefault(clip.trunk, []).append(clip.key)
        if clip.makes_trunk:
            self._makers[clip.trunk] = clip.key

    def is_behind(self, clip: ClipState) -> bool:
        """Whether another clip is to make its trunk first."""
        return self._makers.get(clip.trunk, clip.key) != clip.key

    def made(self, clip: ClipState) -> None:
        """The trunk of ``clip`` is there: its group takes its usual places."""
        if self._makers.pop(clip.trunk, None) is not None:
            for key in self._group[clip.trunk]:
                self._backlog.advance(self._clips[key])

    def over(self, clip: ClipState) -> None:
        """``clip`` has ended. Where it was to make its trunk and did not, the next of its group does."""
        if clip.status is ClipStatus.DONE:
            self.made(clip)
        elif self._makers.get(clip.trunk) == clip.key:
            heir = next((key for key in self._group[clip.trunk] if self._clips[key].is_open), None)
            if heir is None:
                del self._makers[clip.trunk]
            else:
                self._makers[clip.trunk] = heir
                self._backlog.advance(self._clips[heir])
