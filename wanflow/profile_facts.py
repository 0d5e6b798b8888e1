"""What ``doctor`` says about a job's profile: its numbers, what this machine has for it, and its LoRAs, opened.

Asks this machine only; a cluster's GPUs are asked by the replicas when they start.
"""

from __future__ import annotations

from wanflow.inputs import Inputs
from wanflow.job import Job
from wanflow.model import Lora, Sampling
from wanflow.templates import is_template


def profile_facts(job: Job) -> tuple[str, str]:
    """What there is, and what is wrong with it (empty: nothing). Raises WanflowError for what no run could use."""
    from wanflow.engines import read_spec
    from wanflow.engines.backends import best_backend
    from wanflow.engines.compiled import cache_folder, missing_tool
    from wanflow.engines.devices import default_device
    from wanflow.engines.fp8 import problem_of
    from wanflow.engines.profiles import is_compiled
    from wanflow.manifest.loras import LoraMaker

    specs = {mode: read_spec(url) for mode, url in job.engine.checkpoints().items()}
    specs = {mode: spec for mode, spec in specs.items() if mode in spec.modes}
    maker = LoraMaker(job, specs, Inputs(job.directory, allowed=job.allowed()))
    loras = dict.fromkeys(lora for mode in specs for lora in maker.fixed(mode))
    by_row = sum(is_template(entry.url) for entry in job.clip.lora)
    device = default_device()
    told = dict.fromkeys(_told(job.engine.sampling(spec.sampling)) for spec in specs.values())
    found = [*told, f"attention by {best_backend(device)}"]
    if not is_compiled(job.engine.profile, device, job.engine.compile):
        found.append("blocks as they are (not compiled)")
    elif lacks := missing_tool(device):
        found.append(f"blocks as they are: {lacks} to compile them with")
    else:
        found.append(f"blocks compiled, kept in {cache_folder()}")
    problem = problem_of(device)
    wants_fp8 = job.engine.fast is not None and job.engine.fast.fp8
    found.append("8 bits: possible here" if not problem else "8 bits: not here")
    found += [_lora(lora) for lora in loras]
    if by_row:
        found.append(f"{by_row} LoRA(s) by row")
    return "; ".join(found), problem if wants_fp8 else ""


def _told(sampling: Sampling) -> str:
    steps = f"{sampling.profile}, {sampling.steps} steps"
    if sampling.shortcuts is None:
        return steps
    s = sampling.shortcuts
    caches = [_cache(s.cache, s.taylor)]
    if sampling.boundary is not None:
        caches.append(_cache(s.cache_low, s.taylor_low))
    both = " with both branches in one forward" if s.batch_guidance else ""
    bits = ", 8 bits" if s.fp8 else ""
    return (
        f"{steps}, guidance until {s.guidance_until:g} of them{both}, step cache {' and '.join(caches)}{bits}"
    )


def _cache(threshold: float, interval: int) -> str:
    return f"taylor {interval}" if interval else f"{threshold:g}"


def _lora(lora: Lora) -> str:
    name = lora.source.url.partition("?")[0].rpartition("/")[2]
    return f"LoRA {name} ({lora.source.digest[:8]}) at {lora.scale:g} for {lora.expert}"
