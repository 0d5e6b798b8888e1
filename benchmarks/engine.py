"""How fast clips are made: wanflow beside a diffusers script and Ray Data; the forwards of Wan2.2 A14B on a GPU.

::

    python -m benchmarks.engine --device cpu [--clips 24] [--variants 240] [--naive] [--no-branches] [--json]
    python -m benchmarks.engine --device cuda [--sizes 832x480,1280x720] [--steps 6] [--json]
    python -m benchmarks.engine --device cpu --shape tiny        # the GPU's harness on a toy, to see that it runs

On a CPU whole programs are compared (``engine_programs``), from the start of the process to its end, on pocket; a ratio
above 1 says how many times longer the peer takes. On a GPU (``engine_forwards``) the experts have A14B's true shape
and random weights that are made on the GPU: neither Ray nor a checkpoint is needed. README.md beside it says what each
figure is and what was measured.
"""

from __future__ import annotations

import argparse
import json
import sys


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.engine", description=(__doc__ or "").partition("\n\n")[0]
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), required=True)
    parser.add_argument("--json", action="store_true", help="end with one line of figures")
    programs = parser.add_argument_group("whole programs (--device cpu)")
    programs.add_argument("--clips", type=int, default=24, help="unique clips")
    programs.add_argument("--variants", type=int, default=240, help="variants that share them; 0: none")
    programs.add_argument("--naive", action="store_true", help="also a script that renders a clip a variant")
    programs.add_argument("--no-branches", action="store_true", help="leave out groups of one composition")
    forwards = parser.add_argument_group("forwards (--device cuda, or --shape tiny)")
    forwards.add_argument("--shape", choices=("a14b", "tiny"))
    forwards.add_argument("--sizes", default="832x480,1280x720", help="pixels")
    forwards.add_argument("--frames", type=int, default=81)
    forwards.add_argument("--steps", type=int, default=6, help="timed steps, half of them of each expert")
    asked = parser.parse_args()
    if asked.device == "cuda" or asked.shape:
        import torch

        if asked.device == "cuda" and not torch.cuda.is_available():
            parser.error("torch finds no GPU here; `--device cpu --shape tiny` tries the harness without one")
        from benchmarks.engine_forwards import measure_forwards, table

        sizes = [tuple(map(int, size.split("x"))) for size in asked.sizes.split(",")]
        figures = measure_forwards(asked.device, asked.shape or "a14b", sizes, asked.frames, asked.steps)
    else:
        from benchmarks.engine_programs import measure_programs, table

        figures = measure_programs(asked.clips, asked.variants, asked.naive, not asked.no_branches)
    print(table(figures), file=sys.stderr if asked.json else sys.stdout)
    if asked.json:
        print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
