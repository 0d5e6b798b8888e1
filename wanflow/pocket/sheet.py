"""A contact sheet of real output: ``python -m wanflow.pocket.sheet --out sheet.png``.

Held-out prompts. Upper part: text-to-video, five frames a row. Middle: image-to-video, the given frame first. Lower
part: one clip before the cascade, upscaled with a bicubic filter, and refined.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from wanflow.pocket import CHECKPOINT
from wanflow.pocket.render import Case, Frames, Renderer, drawn_frames, sample_cases

_HEIGHT = 96
_STRIP = 14
_PICKS = (0, 4, 8, 12, 16)


def strip(title: str, pictures: list[Frames], height: int = _HEIGHT) -> Image.Image:
    """A row of pictures at one height under its prompt."""
    images = [Image.fromarray(p) for p in pictures]
    images = [
        i.resize((round(i.width * height / i.height), height), Image.Resampling.BICUBIC) for i in images
    ]
    row = Image.new("RGB", (sum(i.width + 2 for i in images), height + _STRIP), "white")
    ImageDraw.Draw(row).text((2, 1), title, fill="black")
    x = 0
    for image in images:
        row.paste(image, (x, _STRIP))
        x += image.width + 2
    return row


def stack(rows: list[Image.Image], columns: int = 1) -> Image.Image:
    """Rows in columns."""
    width = max(r.width for r in rows) + 8
    per = -(-len(rows) // columns)
    parts = [rows[i * per : (i + 1) * per] for i in range(columns)]
    page = Image.new(
        "RGB", (width * columns, max(sum(r.height + 4 for r in part) for part in parts)), "white"
    )
    for i, part in enumerate(parts):
        y = 0
        for row in part:
            page.paste(row, (i * width, y))
            y += row.height + 4
    return page


def make_sheet(renderer: Renderer, num: int, seed: int) -> Image.Image:
    """The whole page."""
    rows = [_row(renderer, case, "") for case in sample_cases(num, seed)]
    rows += [
        _row(renderer, case, "image: ") for case in sample_cases(max(2, num // 2), seed + 1, images=True)
    ]
    base = stack(rows, columns=2)
    pairs = [_cascade_row(renderer, case) for case in sample_cases(2, seed + 2)]
    detail = stack(pairs)
    page = Image.new("RGB", (max(base.width, detail.width), base.height + detail.height), "white")
    page.paste(base, (0, 0))
    page.paste(detail, (0, base.height))
    return page


def _row(renderer: Renderer, case: Case, prefix: str) -> Image.Image:
    frames = renderer.frames(renderer.latents(case))
    given = [drawn_frames(case.scene, case.size)[0]] if case.image else []
    return strip(prefix + case.prompt, given + [frames[i] for i in _PICKS])


def _cascade_row(renderer: Renderer, case: Case) -> Image.Image:
    latents = renderer.latents(case)
    base = renderer.frames(latents)[8]
    refined = renderer.refined(case, latents)[8]
    size = (refined.shape[1], refined.shape[0])
    bicubic = np.asarray(Image.fromarray(base).resize(size, Image.Resampling.BICUBIC))
    return strip(f"bicubic, refined: {case.prompt}", [bicubic, refined], height=240)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m wanflow.pocket.sheet", description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--num", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    make_sheet(Renderer(chosen.checkpoint), chosen.num, chosen.seed).save(chosen.out)
    print(chosen.out)


if __name__ == "__main__":
    main()
