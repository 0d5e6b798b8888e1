"""Who renders what and when: events in, actions out. See README.md in this folder."""

from wanflow.schedule.policy import Policy
from wanflow.schedule.scheduler import Scheduler

__all__ = ["Policy", "Scheduler"]
