"""Who renders what and when: events in, actions out. See README.md in this folder."""

from wanflow.schedule.policy import Policy
from wanflow.schedule.scheduler import Scheduler
from wanflow.schedule.state import PlannedAssembly, PlannedRender

__all__ = ["PlannedAssembly", "PlannedRender", "Policy", "Scheduler"]
