"""What ``doctor`` says about a checkpoint's memory: what its components take, and on which rung of the memory ladder a
replica begins, on the GPUs of this machine or, where it has none, on usual ones.
"""

from __future__ import annotations

import math
import os
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wanflow.engines.devices import Gpu

#: cards as they are sold, in GB
USUAL_GB = (24, 48, 80, 141)


def memory_facts(url: str) -> tuple[str, str]:
    """What there is, and what is wrong with it (empty: nothing). WanflowError for a checkpoint that is broken."""
    from wanflow.engines import read_spec
    from wanflow.engines.checkpoint import open_files
    from wanflow.engines.footprint import (
        RUNGS,
        choose_rung,
        host_bytes,
        needed_bytes,
        needed_bytes_of_two,
        read_parts,
    )

    files, spec = open_files(url), read_spec(url)
    gpus = _gpus()
    rooms = {f"{gpu.name}, {_gb(gpu.free_bytes)} free": gpu.free_bytes for gpu in gpus}
    rooms = rooms or {f"{size} GB": size * 10**9 for size in USUAL_GB}
    found: list[str] = []
    problems: list[str] = []
    met: dict[int, int] = {}
    for width, height in dict.fromkeys((spec.sizes[0], max(spec.sizes, key=math.prod))):
        parts = read_parts(files, replace(spec, largest=(width, height, spec.num_frames)))
        if not found:
            found.append(", ".join(f"{part.name} {_gb(part.num_bytes)}" for part in parts))
        by_rung: dict[int, list[str]] = {}
        for name, room_bytes in rooms.items():
            by_rung.setdefault(choose_rung(parts, room_bytes), []).append(name)
        met |= {rung: host_bytes(parts, rung) for rung in by_rung}
        work = max(part.work_bytes for part in parts)
        told = "; ".join(f"rung {rung} on {', '.join(names)}" for rung, names in by_rung.items())
        if 0 in by_rung:
            of_two = needed_bytes_of_two(parts)
            beside = ", ".join(name for name, room_bytes in rooms.items() if of_two <= room_bytes)
            told += f"; a clip's end beside the next one's steps ({_gb(of_two)} in all) on {beside or 'none'}"
        clip = f"{width}x{height}, {spec.num_frames} frames"
        found.append(f"{clip}, about {_gb(work)} to compute with: {told}")
        least = needed_bytes(parts, max(by_rung))
        if any(gpu.free_bytes < least for gpu in gpus):
            problems.append(f"clips of {clip} want {_gb(least)} of the GPU at once, whatever is moved away")
    found.append("; ".join(f"rung {rung}: {RUNGS[rung]}{_beside(met[rung])}" for rung in sorted(met)))
    host = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if gpus and max(met.values()) > host:
        problems.append(
            f"a replica keeps {_gb(max(met.values()))} in the host's memory, which has {_gb(host)}"
        )
    return ". ".join(found), "; ".join(problems)


def _beside(host_bytes: int) -> str:
    return f", and {_gb(host_bytes)} in the host's memory" if host_bytes else ""


def _gb(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.3g} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.3g} MB"


def _gpus() -> tuple[Gpu, ...]:
    from wanflow.engines.devices import device_facts

    try:
        return device_facts().gpus
    except (ImportError, OSError):  # there is a check that says so
        return ()
