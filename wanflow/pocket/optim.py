"""The optimiser: Muon for matrices and convolutions, AdamW for the rest, and the schedule of the learning rate.

Muon (Jordan et al., 2024) replaces a weight's momentum by the nearest orthogonal matrix, found with five Newton-Schulz
steps. On models of this size it needs about half of AdamW's samples, and a CPU has no samples to waste.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def fast_dtype(device: torch.device) -> torch.dtype:
    """The fastest numbers that train well: bfloat16 on a GPU and on a CPU with AMX, where products run eleven times as
    fast; float32 on other CPUs, where bfloat16 takes half as long again."""
    fast = device.type != "cpu" or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if fast else torch.float32


def learning_rate(step: int, total: int, warmup: int = 50, cooldown: float = 0.4) -> float:
    """The factor on the peak rate: a short warm-up, a plateau, and a straight descent to 2 % over the last
    ``cooldown``."""
    rise = min(1.0, (step + 1) / warmup)
    fall = min(1.0, (total - step) / max(1.0, cooldown * total))
    return rise * max(0.02, fall)


class Muon(torch.optim.Optimizer):
    """One optimiser over both kinds of weights. ``lr`` is Muon's; AdamW's is ``lr * adam_ratio``.

    The way of the text (the encoder, its projection, keys and values of cross-attention) is AdamW's at half of that:
    Muon moves every weight equally far however faint its gradient, so the text would keep changing its meaning
    and the transformer learn not to listen.
    """

    def __init__(
        self, modules: Iterable[nn.Module], lr: float = 0.01, adam_ratio: float = 0.15, decay: float = 0.01
    ) -> None:
        matrices: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        text: list[nn.Parameter] = []
        for module in modules:
            for name, p in module.named_parameters():
                plain = p.ndim < 2 or min(p.shape[0], p[0].numel()) < 8 or "table" in name or "gamma" in name
                heard = any(part in name for part in ("text_embedder", "attn2.to_k", "attn2.to_v"))
                heard = heard or name.startswith(("shared.", "encoder.block", "encoder.embed"))
                (text if heard else others if plain else matrices).append(p)
        groups = [{"params": matrices, "muon": True}, {"params": others, "muon": False}]
        groups += [{"params": text, "muon": False, "ratio": adam_ratio / 2}] if text else []
        super().__init__(groups, {"lr": lr, "ratio": adam_ratio, "decay": decay, "factor": 1.0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            rate = group["lr"] * group["factor"]
            if group["muon"]:
                self._step_muon(params, rate, group["decay"])
            else:
                self._step_adam(params, rate * group["ratio"])

    def _step_muon(self, params: list[Tensor], rate: float, decay: float) -> None:
        alike: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {}
        for p in params:
            state = self.state[p]
            if not state:
                state["momentum"] = torch.zeros_like(p)
            grad = p.grad
            assert grad is not None
            state["momentum"].lerp_(grad, 0.05)
            update = grad.lerp(state["momentum"], 0.95).reshape(p.shape[0], -1)
            alike.setdefault((update.shape[0], update.shape[1]), []).append((p, update))
        for (rows, columns), pairs in alike.items():
            directions = orthogonalise_together(torch.stack([u for _, u in pairs]))
            size = rate * max(1.0, rows / columns) ** 0.5
            for (p, _), direction in zip(pairs, directions, strict=True):
                p.mul_(1 - rate * decay).add_(direction.reshape(p.shape), alpha=-size)

    def _step_adam(self, params: list[Tensor], rate: float) -> None:
        for p in params:
            state, grad = self.state[p], p.grad
            assert grad is not None
            if not state:
                state.update(first=torch.zeros_like(p), second=torch.zeros_like(p), num=torch.zeros(()))
            state["num"] += 1
            state["first"].lerp_(grad, 0.1)
            state["second"].lerp_(grad.square(), 0.01)
            num = float(state["num"])
            first, second = state["first"] / (1 - 0.9**num), state["second"] / (1 - 0.99**num)
            p.addcdiv_(first, second.sqrt().add_(1e-8), value=-rate)


def orthogonalise_together(matrices: Tensor) -> Tensor:
    """``orthogonalise``, each process its share of the matrices: on CPUs it is a quarter of a step."""
    if not dist.is_initialized():
        return orthogonalise(matrices)
    directions = torch.empty_like(matrices)
    shares = directions.tensor_split(dist.get_world_size())
    own = dist.get_rank()
    shares[own].copy_(orthogonalise(matrices.tensor_split(len(shares))[own]))
    for source, share in enumerate(shares):
        dist.broadcast(share, source)
    return directions


def orthogonalise(matrices: Tensor) -> Tensor:
    """The nearest (semi-)orthogonal matrices, roughly: singular values end within 0.7 to 1.2. (batch, rows,
    columns)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices.to(fast_dtype(matrices.device))
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: Tensor = (x.mT if tall else x).to(matrices.dtype)
    return result


class Average:
    """An exponential moving average of weights: what is exported."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {k: v.detach().clone() for k, v in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        keep = min(self.decay, (1 + step) / (10 + step))
        for key, value in module.state_dict().items():
            self.weights[key].lerp_(value, 1 - keep)
