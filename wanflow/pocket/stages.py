"""The loop every stage of training shares: step, log, save, resume.

A step is a function of its number and the rank alone (its data and noise are seeded by them), so a stage that
was stopped and resumed ends with the weights of one that never was. State lives in ``<out>/<name>.pt``, losses in
``<out>/<name>.jsonl``.

Under ``torchrun`` every process takes its own share of each step and gradients are averaged, over GPUs or over
CPU cores: one single-threaded process a core waits for its neighbour once a step, threads of one process wait
at every operation.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from wanflow.pocket.optim import Average, Muon, fast_dtype, learning_rate


@dataclass(frozen=True)
class Stage:
    """How long and how hard to train."""

    name: str
    num_steps: int
    lr: float
    warmup: int = 50
    #: The share of steps over which the rate falls at the end.
    cooldown: float = 0.4
    average: float = 0.998
    save_every: int = 200
    log_every: int = 20


def run_stage(
    stage: Stage,
    modules: nn.ModuleDict,
    loss: Callable[[int], tuple[Tensor, dict[str, float]]],
    out: Path,
    *,
    minutes: float | None = None,
    on_save: Callable[[int], None] | None = None,
) -> bool:
    """Train ``modules`` on ``loss(step)`` until the stage's end or the minutes are over; whether the end was reached.

    Resumes from the state in ``out`` where there is one. On return the modules hold the averaged weights.
    """
    out.mkdir(parents=True, exist_ok=True)
    optimiser = Muon(modules.values(), lr=stage.lr)
    average = Average(modules, stage.average)
    path = out / f"{stage.name}.pt"
    step = load_state(path, modules, optimiser, average)
    share_weights(modules)
    main = rank() == 0
    started, seconds, recent = time.monotonic(), time.monotonic(), []
    with open(out / f"{stage.name}.jsonl", "a", encoding="utf-8") as log:
        while step < stage.num_steps:
            if minutes is not None and step % 10 == 0 and over(started + 60 * minutes):
                break
            for group in optimiser.param_groups:
                group["factor"] = learning_rate(step, stage.num_steps, stage.warmup, stage.cooldown)
            value, parts = loss(step)
            optimiser.zero_grad(set_to_none=True)
            value.backward()
            average_gradients(modules)
            nn.utils.clip_grad_norm_(modules.parameters(), 1.0)
            optimiser.step()
            average.update(modules, step)
            recent.append({"loss": float(value.detach()), **parts})
            step += 1
            if step % stage.log_every == 0 and main:
                row: dict[str, float] = {"step": step}
                for key in {k for r in recent for k in r}:
                    values = [r[key] for r in recent if key in r]
                    row[key] = round(sum(values) / len(values), 5)
                row["step_s"] = round((time.monotonic() - seconds) / len(recent), 3)
                log.write(json.dumps(row) + "\n")
                log.flush()
                recent, seconds = [], time.monotonic()
            if step % stage.save_every == 0 and main:
                save_state(path, step, modules, optimiser, average)
                if on_save is not None:
                    on_save(step)
    if main:
        save_state(path, step, modules, optimiser, average)
    if dist.is_initialized():  # whoever reads it next reads all of it
        dist.barrier()
    modules.load_state_dict(average.weights)
    return step >= stage.num_steps


def arithmetic(device: torch.device) -> AbstractContextManager[None]:
    """Autocast to ``fast_dtype``, where that is not float32."""
    dtype = fast_dtype(device)
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)


def rank() -> int:
    """This process's number among those that train together; 0 when alone."""
    return dist.get_rank() if dist.is_initialized() else 0


def share_weights(modules: nn.Module) -> None:
    """Everyone starts from the first process's weights."""
    if dist.is_initialized():
        for p in modules.parameters():
            dist.broadcast(p.data, 0)


def average_gradients(modules: nn.Module) -> None:
    """One all-reduce over all gradients laid end to end."""
    if not dist.is_initialized():
        return
    grads = [p.grad for p in modules.parameters() if p.grad is not None]
    flat = torch.cat([g.reshape(-1) for g in grads])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for grad, part in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
        grad.copy_(part.view_as(grad))


def over(deadline: float) -> bool:
    """Whether the deadline has passed for anyone: all must stop at the same step."""
    late = torch.tensor(float(time.monotonic() > deadline))
    if dist.is_initialized():
        dist.all_reduce(late, dist.ReduceOp.MAX)
    return bool(late)


def save_state(path: Path, step: int, modules: nn.Module, optimiser: Muon, average: Average) -> None:
    """Write the state beside its place and move it there: a kill at any moment leaves the old one or the new one."""
    partial = path.with_suffix(".partial")
    state = {
        "step": step,
        "weights": modules.state_dict(),
        "average": average.weights,
        "optimiser": optimiser.state_dict(),
    }
    torch.save(state, partial)
    os.replace(partial, path)


def load_state(path: Path, modules: nn.Module, optimiser: Muon, average: Average) -> int:
    """Fill everything from ``path`` and return its step; 0 where there is no state yet."""
    if not path.exists():
        return 0
    state = torch.load(path, map_location="cpu", weights_only=True)
    modules.load_state_dict(state["weights"])
    optimiser.load_state_dict(state["optimiser"])
    average.weights = {k: v.to(average.weights[k].device) for k, v in state["average"].items()}
    return int(state["step"])


def load_average(path: Path, modules: nn.Module, *, needed: bool) -> None:
    """Fill modules with their averaged weights in a stage's state, the ones to use and to export."""
    if not path.exists():
        if needed:
            raise FileNotFoundError(
                f"{path} is missing: run the stage that makes it first (--stage {path.stem})"
            )
        return
    average = torch.load(path, map_location="cpu", weights_only=True)["average"]
    modules.load_state_dict({key: average[key] for key in modules.state_dict()})
