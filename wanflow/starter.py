"""What ``wanflow init DIR`` writes: a commented job, its manifest and the pictures, small enough to run in a minute.

The manifest is CSV, because a starter is there to be edited; Parquet is read in the same way. The pictures are drawn
here. Nothing that exists is overwritten.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from wanflow.errors import UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

JOB_FILE = "job.yaml"
MANIFEST_FILE = "variants.csv"

JOB = """\
# A wanflow job: it turns the rows of variants.csv into videos under out/.
#
#   wanflow plan job.yaml      what would be rendered, and why
#   wanflow run job.yaml       render it; run it again and nothing is done twice
#   wanflow schema job         every key that may stand here
#
# Text between {{ }} is a column of the manifest. ${NAME} is taken from the environment, and
# `--set clip.seed=1` changes a value for one run. Paths are relative to this file.

wanflow: 1
name: starter

manifest:
  url: variants.csv              # or s3://bucket/prefix/*.parquet, or a directory
  # where: customer = 'aurora'   # only these rows

# The model. `pocket` is tiny, comes with wanflow and runs on a CPU. For real work name a Wan 2.2 checkpoint:
#   checkpoint: Wan-AI/Wan2.2-TI2V-5B-Diffusers
#   checkpoint: {t2v: s3://models/wan2.2-t2v-a14b, i2v: s3://models/wan2.2-i2v-a14b}
engine:
  checkpoint: pocket

# What is generated: only `clip` and `cascade` cost GPU time. Rows that agree here share one clip, so keep names and
# headlines out of the prompt. A column `image` makes the clip start from a picture, `video` from footage.
clip:
  prompt: "{{ prompt }}"
  aspect: [16x9, 9x16]           # written with an x
  seconds: 2
  seed: 0                        # the same seed gives the same clip

cascade:
  - refine: {scale: 2, strength: 0.3}

# What is laid over the clip, lowest first. This costs no GPU: change a headline, and only ffmpeg runs again.
# An empty value leaves its layer out. Sizes are shares of the picture.
layers:
  - image: {url: "{{ product }}", at: center, height: 36%}
  - image: {url: "{{ logo }}", at: top-left, height: 12%}
  - box: {color: "{{ color }}", at: bottom, width: 100%, height: 30%, margin: 0, opacity: 0.8}
  - text: {value: "{{ headline }}", at: bottom, margin: 8%, style: headline, color: "#ffffff"}

# What is heard; this costs no GPU either. Music gives way to a voice, and every file is equally loud.
# sound:
#   voice: {url: "{{ voice }}", extend: hold}   # a column with sound files; longer than the clip: its last frame stays
#   music: music.mp3

# The files of each variant. `from` is the aspect of the clip that a file is made from.
outputs:
  - {name: wide, preset: preview, from: 16x9}
  - {name: tall, preset: preview, from: 9x16}

limits:
  max_failed: 0                  # or 0.5%
  # deadline: "06:00"            # start nothing more after this time

publish:
  url: out                       # or s3://bucket/prefix
  path: "{{ variant_id }}/{{ output }}.mp4"
  carry: [customer]              # columns that results and catalog repeat

resources:
  replicas: 2
"""

_PROMPTS = ("soft teal waves moving up over white", "an orange glow growing slowly over navy")
ROWS = (
    {
        "variant_id": "aurora-1", "customer": "aurora", "prompt": _PROMPTS[0], "headline": "Fresh for spring",
        "logo": "images/aurora.png", "product": "images/bottle.png", "color": "#0b5f63", "priority": "1",
    },
    {
        "variant_id": "aurora-2", "customer": "aurora", "prompt": _PROMPTS[1], "headline": "Evenings, lighter",
        "logo": "images/aurora.png", "product": "images/bottle.png", "color": "#0b5f63", "priority": "",
    },
    {
        "variant_id": "borealis-1", "customer": "borealis", "prompt": _PROMPTS[0], "headline": "Jetzt für 9 €",
        "logo": "images/borealis.png", "product": "images/jar.png", "color": "#7a2348", "priority": "",
    },
    {
        "variant_id": "borealis-2", "customer": "borealis", "prompt": _PROMPTS[1], "headline": "Pouze do neděle",
        "logo": "images/borealis.png", "product": "", "color": "#7a2348", "priority": "",
    },
)  # fmt: skip


def write_starter(directory: str | Path) -> list[Path]:
    """Write the starter into ``directory`` (made if absent) and return its files, the job first.

    Raises UsageError, before anything is written, when one of the files exists.
    """
    directory = Path(directory)
    pictures: dict[str, Callable[[], Image]] = {
        "images/aurora.png": lambda: _logo((11, 95, 99), (255, 190, 92)),
        "images/borealis.png": lambda: _logo((122, 35, 72), (214, 240, 255)),
        "images/bottle.png": lambda: _product((20, 150, 140), 0.34),
        "images/jar.png": lambda: _product((190, 70, 110), 0.62),
    }
    files = [directory / name for name in (JOB_FILE, MANIFEST_FILE, *pictures)]
    existing = [str(path) for path in files if path.exists()]
    if existing:
        raise UsageError(f"{', '.join(existing)}: already there; choose an empty directory")
    try:
        (directory / "images").mkdir(parents=True, exist_ok=True)
        files[0].write_text(JOB, encoding="utf-8")
        with files[1].open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(ROWS[0]))
            writer.writeheader()
            writer.writerows(ROWS)
        for name, draw in pictures.items():
            draw().save(directory / name)
    except OSError as exc:
        raise UsageError(f"{directory}: cannot be written: {exc.strerror or exc}") from None
    return files


def _logo(ground: tuple[int, int, int], mark: tuple[int, int, int]) -> Image:
    """A round badge with a rising sun, 256 pixels, drawn large and scaled down for smooth edges."""
    from PIL import Image, ImageDraw

    side = 1024
    image = Image.new("RGBA", (side, side))
    draw = ImageDraw.Draw(image)
    draw.ellipse((8, 8, side - 8, side - 8), fill=(*ground, 255))
    draw.pieslice((262, 322, 762, 822), 180, 360, fill=(*mark, 255))
    for top, width in ((620, 560), (700, 400), (780, 220)):
        draw.rounded_rectangle(((side - width) / 2, top, (side + width) / 2, top + 36), 18, fill=(*mark, 255))
    return image.resize((256, 256), Image.Resampling.LANCZOS)


def _product(color: tuple[int, int, int], width: float) -> Image:
    """A shaded bottle or jar on transparency, 480 pixels high; ``width`` is its share of the height."""
    from PIL import Image, ImageChops, ImageDraw, ImageFilter

    height, across = 1440, int(1440 * width)
    size = (across + 160, height)
    shape = Image.new("L", size)
    draw = ImageDraw.Draw(shape)
    left, right = 80, 80 + across
    neck = across * 0.27
    draw.rounded_rectangle((left, height * 0.28, right, height - 40), across * 0.16, fill=255)
    draw.rounded_rectangle((left + neck, height * 0.12, right - neck, height * 0.36), across * 0.05, fill=255)
    cap = Image.new("L", size)
    ImageDraw.Draw(cap).rounded_rectangle(
        (left + neck * 0.8, 30, right - neck * 0.8, height * 0.19), across * 0.05, fill=255
    )
    label = Image.new("L", size)
    ImageDraw.Draw(label).rectangle((left, height * 0.5, right, height * 0.8), fill=255)

    light = Image.linear_gradient("L").rotate(90).resize(size)  # dark on one side, light on the other
    body = Image.composite(
        Image.new("RGB", size, tuple(min(255, c + 70) for c in color)), Image.new("RGB", size, color), light
    )
    body.paste((250, 247, 240), mask=label)
    body.paste((48, 44, 52), mask=cap)
    shine = Image.new("L", size)
    ImageDraw.Draw(shine).rounded_rectangle(
        (left + across * 0.12, height * 0.33, left + across * 0.2, height * 0.92), across * 0.04, fill=110
    )
    shine = shine.filter(ImageFilter.GaussianBlur(across * 0.02))
    body.paste((255, 255, 255), mask=shine)
    image = body.convert("RGBA")
    image.putalpha(ImageChops.lighter(shape, cap))
    return image.resize((size[0] // 3, size[1] // 3), Image.Resampling.LANCZOS)
