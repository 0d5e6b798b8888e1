"""Pocket: a trained Wan checkpoint small enough to ship in the package, and the recipe that made it.

``CHECKPOINT`` is a folder in diffusers' layout. Importing this package loads nothing else.
"""

from pathlib import Path

CHECKPOINT: Path = Path(__file__).parent / "checkpoint"
