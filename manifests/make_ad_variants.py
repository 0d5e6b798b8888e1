"""Makes ``ad_variants.parquet``, its source images and its jingles: 36 ads of four made-up brands over 12 clips.

    python manifests/make_ad_variants.py

A campaign is a backdrop: one clip. Three brands use each one, so 12 clips serve 36 variants; nothing that belongs to a
brand may appear in a campaign. Half of the campaigns start from a picture (image-to-video), which is drawn here. Logos
and product cut-outs come from ``ad_pictures.py``. A brand's jingle is a few notes, made here of sines. Paths in the
table are relative to the job file, ``jobs/ad_variants.yaml``.
"""

from __future__ import annotations

import wave
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from wanflow.pocket.scenes import Scene, draw

HERE = Path(__file__).parent
FOLDER = HERE / "ad_variants"
#: what pocket renders after the refine step: its base sizes times two
SIZES = {"9x16": (192, 320), "1x1": (256, 256), "16x9": (320, 192)}


@dataclass(frozen=True)
class Campaign:
    """One backdrop. ``seed`` draws the first frame of an image-to-video clip; None: text-to-video."""

    name: str
    aspect: str
    prompt: str
    scene: Scene
    brands: str
    from_image: bool = False
    #: what can be read on it: ``white`` or ``dark``
    ink: str = "white"


CAMPAIGNS = [
    Campaign("tide", "9x16", "large blue waves drifting left over navy, calm",
             Scene("waves", "blue", "navy", "left", "large", 11), "kavo onda verda"),
    Campaign("blossom", "9x16", "large pink bokeh rising over maroon, elegant",
             Scene("bokeh", "pink", "maroon", "up", "large", 5), "kavo onda northlane", from_image=True),
    Campaign("lagoon", "9x16", "large cyan waves rising over teal, soft light",
             Scene("waves", "cyan", "teal", "up", "large", 3), "verda northlane kavo"),
    Campaign("ember", "9x16", "large orange glow drifting right over maroon, cinematic",
             Scene("gradient", "orange", "maroon", "right", "large", 8), "northlane onda verda", from_image=True),
    Campaign("gold", "1x1", "large yellow bokeh rising over black, premium",
             Scene("bokeh", "yellow", "black", "up", "large", 2), "kavo onda verda"),
    Campaign("meadow", "1x1", "large green waves drifting right over teal, gentle",
             Scene("waves", "green", "teal", "right", "large", 7), "onda northlane kavo", from_image=True),
    Campaign("dusk", "1x1", "large purple gradient growing over navy, smooth",
             Scene("gradient", "purple", "navy", "growing", "large", 4), "kavo northlane verda"),
    Campaign("silk", "1x1", "large white waves drifting left over gray, minimal",
             Scene("waves", "white", "gray", "left", "large", 6), "verda northlane onda", from_image=True, ink="dark"),
    Campaign("velvet", "16x9", "large red waves drifting right over maroon, premium",
             Scene("waves", "red", "maroon", "right", "large", 9), "kavo onda northlane"),
    Campaign("lights", "16x9", "large cyan bokeh drifting left over navy, cinematic",
             Scene("bokeh", "cyan", "navy", "left", "large", 12), "onda northlane verda", from_image=True),
    Campaign("dawn", "16x9", "large pink glow drifting left over beige, soft light",
             Scene("gradient", "pink", "beige", "left", "large", 1), "kavo verda onda", ink="dark"),
    Campaign("night", "16x9", "small orange bokeh rising over black, calm",
             Scene("bokeh", "orange", "black", "up", "small", 10), "kavo northlane verda", from_image=True),
]  # fmt: skip


@dataclass(frozen=True)
class Brand:
    customer: str
    colour: str
    cta: str
    #: of its jingle, semitones above A3; those in brackets together
    notes: tuple[int | tuple[int, ...], ...]
    #: notes a second
    pace: float
    #: strength of a note and of each of its overtones
    overtones: tuple[float, ...]
    #: seconds in which a note fades to a third
    fades_s: float
    #: one for each of a brand's ads, in the order of the campaigns
    headlines: tuple[str, ...]


BRANDS = {
    "kavo": Brand("Kavo Coffee", "#d9622b", "Find your roast",
                  ((-12, 3), 7, 10, (-7, 5), 8, 12), 3.2, (1, 0.35, 0.12, 0.05), 0.5, (
        "Slow mornings, to go", "Roasted this week", "Your corner café, anywhere",
        "Small batch. Big day.", "Made for the walk", "Better before nine",
        "A warmer kind of fast", "Taste the first hour", "Night shift, sorted",
    )),
    "northlane": Brand("Northlane", "#2f6bff", "Shop the drop",
                       ((-17, 7), 7, -17, 12, (-19, 5), 5, -19, 14), 4.4, (1, 0.6, 0.45, 0.3, 0.2, 0.1), 0.18, (
        "Run lighter", "Every street is a track", "Made to move", "Leave the noise behind", "Go the long way home",
        "Softer landings", "One more mile", "Find your pace", "Outrun the weather",
    )),
    "onda": Brand("Onda Audio", "#7b4dff", "Hear it first",
                  ((-12, 0, 7), 14, (-8, 4, 11), 19), 2.0, (1, 0.2, 0.08, 0, 0.06), 0.9, (
        "Silence, tuned", "Turn the city down", "Sound you can feel", "Every note, in its place",
        "Lose the wire. Keep the soul.", "Press play on quiet", "Forty hours, one charge", "Front row, all day",
        "Listen closer",
    )),
    "verda": Brand("Verda", "#159a78", "Refill, not landfill",
                   ((-5, 7), 12, 16, 14, (-7, 12), 19), 3.0, (1, 0, 0.3, 0, 0, 0.15), 0.25, (
        "Cold for 24 hours", "Drink to the planet", "One bottle, every day", "Made to be kept", "Pure, simple, steel",
        "Goes where you go", "Hot until noon", "The last bottle you buy", "Less plastic, more ocean",
    )),
}  # fmt: skip
SEGMENTS = ("new", "returning", "vip")
#: samples a second of a jingle, and its seconds: those of an ad
RATE = 32_000
JINGLE_S = 17 / 8


def first_frame(campaign: Campaign) -> str:
    """Draws the picture that an image-to-video clip starts from; its path, seen from the job file."""
    width, height = SIZES[campaign.aspect]
    frame = draw(campaign.scene, height, width, num_frames=1)[:, 0].permute(1, 2, 0)
    path = FOLDER / f"scene-{campaign.name}.png"
    Image.fromarray((frame * 255).round().byte().numpy()).save(path, optimize=True)
    return from_job(path)


def jingle(brand: Brand) -> np.ndarray[Any, Any]:
    """A brand's notes as 16-bit samples, one channel."""
    time = np.arange(round(JINGLE_S * RATE)) / RATE
    sound = np.zeros_like(time)
    for i, notes in enumerate(brand.notes):
        since = time - i / brand.pace
        begun = np.clip(since / 0.008, 0, 1) * np.exp(-np.maximum(since, 0) / brand.fades_s)
        for note in notes if isinstance(notes, tuple) else (notes,):
            hertz = 220 * 2 ** (note / 12)
            for k, strength in enumerate(brand.overtones, 1):
                sound += begun * strength * np.sin(2 * np.pi * k * hertz * since)
    return np.round(sound / np.abs(sound).max() * 24000).astype("<i2")


def write_jingle(name: str) -> str:
    """Its path, seen from the job file."""
    path = FOLDER / f"{name}-jingle.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(jingle(BRANDS[name]).tobytes())
    return from_job(path)


def from_job(path: Path) -> str:
    return f"../{path.relative_to(HERE.parent).as_posix()}"


def rows() -> list[dict[str, str | None]]:
    headlines = {name: iter(brand.headlines) for name, brand in BRANDS.items()}
    jingles = {name: write_jingle(name) for name in BRANDS}
    made: list[dict[str, str | None]] = []
    for campaign in CAMPAIGNS:
        image = first_frame(campaign) if campaign.from_image else None
        for brand in campaign.brands.split():
            made.append({
                "variant_id": f"{brand}-{campaign.name}",
                "prompt": campaign.prompt,
                "image": image,
                "aspect": campaign.aspect,
                "customer": brand,
                "customer_name": BRANDS[brand].customer,
                "campaign": campaign.name,
                "segment": SEGMENTS[len(made) % len(SEGMENTS)],
                "logo": from_job(FOLDER / f"{brand}-logo-{campaign.ink}.png"),
                "product": from_job(FOLDER / f"{brand}-product.png"),
                "music": jingles[brand],
                "headline": next(headlines[brand]),
                "cta": BRANDS[brand].cta,
                "brand_color": BRANDS[brand].colour,
                "text_color": "#ffffff" if campaign.ink == "white" else "#17181c",
            })  # fmt: skip
    return made


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    table = pa.Table.from_pylist(rows())
    pq.write_table(table, HERE / "ad_variants.parquet", compression="zstd")
    print(f"{table.num_rows} variants of {len(CAMPAIGNS)} clips in {HERE / 'ad_variants.parquet'}")


if __name__ == "__main__":
    main()
