"""Where replicas go: on GPUs or CPUs, how many there is room for, groups of GPUs on one node, room asked for.

Decides once, from the job's wishes and the cluster as it is at the start. Several GPUs of one replica are a
STRICT_PACK placement group, so that they lie on one node; it lives as long as its replica. Replicas on CPUs reserve no
logical CPU and share the cores as torch threads, so that assembly always finds a CPU.

A request for room is the cluster's, not the run's: it stands until it is changed, and the last of two runs that ask on
one cluster has its way. A driver that is killed leaves its own behind; the next run on that cluster replaces it.
"""

from __future__ import annotations

import logging
from typing import Any

import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from wanflow.errors import EngineError

log = logging.getLogger(__name__)


class Placement:
    """``gpus_per_replica`` None: one where the cluster has GPUs now, else the CPU. EngineError when this machine is
    all there is (``is_local``) and has not as many.
    """

    def __init__(self, max_replicas: int | None, gpus_per_replica: float | None, *, is_local: bool) -> None:
        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        gpus = resources.get("GPU", 0)
        self.num_cpus = max(1, int(resources.get("CPU", 1)))
        self.num_gpus = gpus_per_replica if gpus_per_replica is not None else float(gpus > 0)
        if is_local and self.num_gpus > gpus:
            raise EngineError(
                f"resources.gpus_per_replica asks for {self.num_gpus:g} GPU(s) and this machine has {gpus:g}; "
                "leave it out to use what is there, or join a cluster with --address"
            )
        self.device: str | None = None
        self.num_threads: int | None = None
        if self.num_gpus:
            self.max_replicas = max_replicas or max(1, int(gpus // self.num_gpus))
        else:
            self.max_replicas = min(max_replicas or 2, self.num_cpus)
            self.device, self.num_threads = "cpu", max(1, self.num_cpus // self.max_replicas)
        self._requested = 0

    def reserve(self) -> tuple[dict[str, Any], Any]:
        """An actor's options, and the placement group that :meth:`give_back` takes (None: it needs none)."""
        if self.num_gpus <= 1:
            return {"num_gpus": self.num_gpus}, None
        # An actor cannot reach over bundles, so its GPUs are one.
        group = placement_group([{"GPU": self.num_gpus}], strategy="STRICT_PACK")
        strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=0)
        return {"num_gpus": self.num_gpus, "scheduling_strategy": strategy}, group

    def give_back(self, group: Any) -> None:
        if group is not None:
            remove_placement_group(group)

    def request(self, num_replicas: int) -> None:
        """Ask the autoscaler for room for so many replicas in all; 0 clears it. Only a hint: it never fails."""
        if num_replicas == self._requested:
            return
        from ray.autoscaler.sdk import request_resources

        bundle = {"GPU": self.num_gpus} if self.num_gpus else {"CPU": float(self.num_threads or 1)}
        try:
            request_resources(bundles=[dict(bundle) for _ in range(num_replicas)])
            self._requested = num_replicas
        except Exception as error:  # noqa: BLE001 - experimental in Ray: without it the cluster only does not grow ahead
            log.warning("the cluster's autoscaler could not be asked for room: %s", error)
