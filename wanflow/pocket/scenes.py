"""The scenes pocket is trained on: what a scene is, how one is sampled, and how it is drawn.

A :class:`Scene` is a small value. Drawing it is a pure function of the scene and a size, so the same scene at
96x160 and at 192x320 is the same picture: every length is in units of the shorter side, edges are antialiased
analytically from signed distances, and chance lives in the scene's own ``seed``. Captions are the business of
``grammar``.

Limits: one subject a scene, one motion a scene, straight uniform motion, colours in sRGB without colour management.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import torch
from torch import Tensor

FPS = 8
NUM_FRAMES = 17

#: sRGB in 0..1. Chosen to stay apart from each other and from every background under the scenes' own light.
SUBJECT_COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.87, 0.15, 0.17),
    "green": (0.15, 0.68, 0.31),
    "blue": (0.15, 0.38, 0.92),
    "yellow": (0.98, 0.82, 0.15),
    "purple": (0.55, 0.24, 0.80),
    "orange": (0.98, 0.50, 0.10),
    "white": (0.97, 0.97, 0.96),
    "cyan": (0.18, 0.82, 0.90),
    "pink": (0.98, 0.48, 0.69),
    "black": (0.06, 0.06, 0.07),
}
BACKGROUND_COLOURS: dict[str, tuple[float, float, float]] = {
    "black": (0.06, 0.06, 0.07),
    "navy": (0.08, 0.13, 0.36),
    "gray": (0.52, 0.53, 0.55),
    "beige": (0.90, 0.82, 0.69),
    "maroon": (0.42, 0.08, 0.14),
    "teal": (0.05, 0.44, 0.45),
    "white": (0.94, 0.94, 0.94),
    "olive": (0.45, 0.46, 0.15),
}
SHAPES = ("circle", "square", "triangle", "star", "ring")
TEXTURES = ("waves", "bokeh", "gradient")
KINDS = SHAPES + TEXTURES
MOTIONS = ("left", "right", "up", "down", "growing", "shrinking")
SCALES = ("small", "large")

#: Pairs that cannot be seen, never drawn.
INVISIBLE = frozenset({("black", "black"), ("white", "white")})
#: Pairs kept out of training; the evaluation draws its prompts from them.
HELD_OUT_SUBJECTS = frozenset(
    {
        ("red", "star"), ("green", "circle"), ("blue", "triangle"), ("yellow", "ring"), ("purple", "square"),
        ("orange", "waves"), ("white", "bokeh"), ("cyan", "gradient"), ("pink", "star"), ("orange", "square"),
        ("purple", "waves"), ("blue", "bokeh"), ("white", "ring"), ("black", "triangle"),
    }
)  # fmt: skip
HELD_OUT_BACKGROUNDS = frozenset(
    {
        ("red", "navy"), ("green", "beige"), ("blue", "gray"), ("yellow", "teal"), ("purple", "black"),
        ("orange", "white"), ("white", "maroon"), ("cyan", "olive"), ("pink", "navy"), ("black", "beige"),
    }
)  # fmt: skip


@dataclass(frozen=True)
class Scene:
    """One clip to draw."""

    kind: str
    colour: str
    background: str
    motion: str
    scale: str
    #: Chance of the layout: where the subject starts, how far it goes, the light's angle, small shifts of colour.
    seed: int

    def held_out(self) -> bool:
        """Whether training never draws this combination of colour and kind, or of colour and background."""
        return (self.colour, self.kind) in HELD_OUT_SUBJECTS or (
            self.colour,
            self.background,
        ) in HELD_OUT_BACKGROUNDS


def sample_scene(rng: random.Random, *, held_out: bool = False) -> Scene:
    """A scene, balanced over kind, motion and scale; from the training combinations, or with ``held_out`` from
    the others."""
    while True:
        scene = Scene(
            kind=rng.choice(KINDS),
            colour=rng.choice(tuple(SUBJECT_COLOURS)),
            background=rng.choice(tuple(BACKGROUND_COLOURS)),
            motion=rng.choice(MOTIONS),
            scale=rng.choice(SCALES),
            seed=rng.randrange(2**31),
        )
        if (scene.colour, scene.background) not in INVISIBLE and scene.held_out() == held_out:
            return scene


def draw(
    scene: Scene,
    height: int,
    width: int,
    num_frames: int = NUM_FRAMES,
    device: torch.device | str = "cpu",
    crop: tuple[int, int, int, int] | None = None,
) -> Tensor:
    """The scene as float32 ``(3, num_frames, height, width)`` in 0..1. The motion takes ``NUM_FRAMES``, longer
    clips go on.

    ``crop`` (top, left, height, width) draws only that part of the picture, at that part's cost.
    """
    rng = random.Random(scene.seed)
    canvas = _Canvas(height, width, num_frames, torch.device(device), crop or (0, 0, height, width))
    base = _colour(BACKGROUND_COLOURS[scene.background], rng, device)
    subject = _colour(SUBJECT_COLOURS[scene.colour], rng, device)
    picture = _backdrop(canvas, base, rng)
    if scene.kind == "waves":
        picture = _waves(canvas, picture, base, subject, scene, rng)
    elif scene.kind == "bokeh":
        picture = _bokeh(canvas, picture, subject, scene, rng)
    elif scene.kind == "gradient":
        picture = _gradient(canvas, picture, subject, scene, rng)
    else:
        picture = _shape(canvas, picture, subject, scene, rng)
    return picture.expand(3, num_frames, canvas.y.shape[2], canvas.x.shape[3]).clamp(0, 1)


class _Canvas:
    """Pixel centres in units of the shorter side, origin in the middle, y down; and the clip's progress 0..1 a
    frame."""

    def __init__(
        self, height: int, width: int, num_frames: int, device: torch.device, crop: tuple[int, int, int, int]
    ) -> None:
        top, left, rows, columns = crop
        short = min(height, width)
        self.device = device
        self.half_w, self.half_h = width / short / 2, height / short / 2
        self.pixel = 1 / short
        self.left, self.top = left / short - self.half_w, top / short - self.half_h
        xs = (torch.arange(columns, dtype=torch.float32, device=device) + 0.5) / short + self.left
        ys = (torch.arange(rows, dtype=torch.float32, device=device) + 0.5) / short + self.top
        self.x = xs.view(1, 1, 1, columns)
        self.y = ys.view(1, 1, rows, 1)
        self.progress = (
            torch.arange(num_frames, dtype=torch.float32, device=device) / (NUM_FRAMES - 1)
        ).view(1, -1, 1, 1)

    def cover(self, distance: Tensor, softness: float = 0.0) -> Tensor:
        """How much of a pixel lies inside (distance < 0), with an edge at least one and a half pixels wide."""
        half = max(0.75 * self.pixel, softness)
        return _smooth((half - distance) / (2 * half))

    def window(self, cx: Tensor, cy: Tensor, reach: float) -> tuple[slice, slice, slice, slice]:
        """The rows and columns that anything within ``reach`` of the moving centre can touch."""
        left, right = (float(cx.min()) - reach - self.left), (float(cx.max()) + reach - self.left)
        top, bottom = (float(cy.min()) - reach - self.top), (float(cy.max()) + reach - self.top)
        rows = slice(max(0, int(top / self.pixel)), max(0, int(bottom / self.pixel) + 1))
        columns = slice(max(0, int(left / self.pixel)), max(0, int(right / self.pixel) + 1))
        return slice(None), slice(None), rows, columns


def _smooth(t: Tensor) -> Tensor:
    t = t.clamp(0, 1)
    return t * t * (3 - 2 * t)


def _colour(rgb: tuple[float, float, float], rng: random.Random, device: torch.device | str) -> Tensor:
    shift = rng.uniform(-0.012, 0.012)
    return torch.tensor([c + shift for c in rgb], dtype=torch.float32, device=device).view(3, 1, 1, 1)


def _mix(a: Tensor, b: Tensor, t: Tensor | float) -> Tensor:
    return a + (b - a) * t


def _backdrop(canvas: _Canvas, base: Tensor, rng: random.Random) -> Tensor:
    """A wall in soft light from the upper left with a gentle vignette: (3, 1, H, W)."""
    angle = math.radians(rng.uniform(30, 70))
    reach = canvas.half_w * math.cos(angle) + canvas.half_h * math.sin(angle)
    ramp = (canvas.x * math.cos(angle) + canvas.y * math.sin(angle)) / reach
    corner = (canvas.x / canvas.half_w) ** 2 + (canvas.y / canvas.half_h) ** 2
    light = 1 - 0.13 * ramp - 0.07 * corner
    return base * light + 0.018 * (1 - ramp)


def _travel(canvas: _Canvas, scene: Scene, rng: random.Random, margin: float) -> tuple[Tensor, Tensor]:
    """The subject's centre over time. ``margin`` is how far it stays from the frame's edge."""
    room_x, room_y = max(canvas.half_w - margin, 0.06), max(canvas.half_h - margin, 0.06)
    along_x = scene.motion in ("left", "right")
    along_y = scene.motion in ("up", "down")
    going = -1.0 if scene.motion in ("left", "up") else 1.0
    p = canvas.progress - 0.5
    if along_x:
        length = max(rng.uniform(1.2, 1.8) * room_x, 0.45)
        offset = rng.uniform(-0.15, 0.15) * room_x
        return offset + going * length * p, torch.zeros_like(p) + rng.uniform(-0.7, 0.7) * room_y
    if along_y:
        length = max(rng.uniform(1.2, 1.8) * room_y, 0.45)
        offset = rng.uniform(-0.15, 0.15) * room_y
        return torch.zeros_like(p) + rng.uniform(-0.7, 0.7) * room_x, offset + going * length * p
    return torch.zeros_like(p) + rng.uniform(-0.6, 0.6) * room_x, torch.zeros_like(p) + rng.uniform(
        -0.5, 0.5
    ) * room_y


def _growth(canvas: _Canvas, scene: Scene, low: float, high: float) -> Tensor:
    """The factor on lengths over time: 1 unless the scene grows or shrinks."""
    if scene.motion == "growing":
        return low + (high - low) * canvas.progress
    if scene.motion == "shrinking":
        return (high + (low - high) * canvas.progress).clamp_min(0.25 * low)
    return torch.ones_like(canvas.progress)


def _shape(canvas: _Canvas, picture: Tensor, subject: Tensor, scene: Scene, rng: random.Random) -> Tensor:
    radius0 = rng.uniform(0.18, 0.22) if scene.scale == "small" else rng.uniform(0.26, 0.32)
    cx, cy = _travel(canvas, scene, rng, margin=radius0 * 0.95)
    radius = radius0 * _growth(canvas, scene, 0.65, 1.35)
    tilt = rng.uniform(-0.14, 0.14)
    px, py = canvas.x - cx, canvas.y - cy
    cos, sin = math.cos(tilt), math.sin(tilt)
    ux, uy = (px * cos + py * sin) / radius, (py * cos - px * sin) / radius
    inside = shape_distance(scene.kind, ux, uy)
    sx, sy = ux - 0.20, uy - 0.30
    shadow = _smooth((0.42 - shape_distance(scene.kind, sx, sy)) / 0.75)
    picture = picture * (1 - 0.40 * shadow)
    ball = 1.0 if scene.kind == "circle" else 0.35
    glow = torch.exp(-((ux + 0.38) ** 2 + (uy + 0.42) ** 2) * 2.0)
    shade = 1.06 - 0.20 * (ux * 0.45 + uy * 0.75) * (0.7 + 0.6 * ball)
    rim = _smooth((inside + 0.16) / 0.16)
    body = subject * shade * (1 - 0.10 * rim * ball)
    body = body + (1 - body) * (0.10 + 0.22 * ball) * glow + 0.03
    return _mix(picture, body, canvas.cover(inside * radius))


def shape_distance(kind: str, x: Tensor, y: Tensor) -> Tensor:
    """Signed distance to a shape of radius 1, y down, slightly rounded. Formulas after Inigo Quilez, 2D
    distance functions."""
    if kind == "circle":
        return torch.sqrt(x * x + y * y + 1e-8) - 0.94
    if kind == "ring":
        return (torch.sqrt(x * x + y * y + 1e-8) - 0.74).abs() - 0.25
    if kind == "square":
        qx, qy = x.abs() - 0.68, y.abs() - 0.68
        outside = torch.sqrt(qx.clamp_min(0) ** 2 + qy.clamp_min(0) ** 2 + 1e-8)
        return outside + torch.maximum(qx, qy).clamp_max(0) - 0.14
    if kind == "triangle":
        return _triangle_distance(x, y)
    if kind == "star":
        return _star_distance(x, y)
    raise ValueError(f"no shape {kind!r}; the shapes are {', '.join(SHAPES)}")


def _triangle_distance(x: Tensor, y: Tensor) -> Tensor:
    half, k, rounding = 0.84, math.sqrt(3.0), 0.12
    x = x.abs() - half
    y = -(y - 0.16) + half / k
    fold = (x + k * y) > 0
    fx, fy = (x - k * y) / 2, (-k * x - y) / 2
    x, y = torch.where(fold, fx, x), torch.where(fold, fy, y)
    x = x - x.clamp(-2 * half, 0)
    return -torch.sqrt(x * x + y * y + 1e-8) * torch.sign(y) - rounding


def _star_distance(x: Tensor, y: Tensor) -> Tensor:
    radius, inner, rounding = 0.95, 0.50, 0.06
    k1x, k1y, k2x, k2y = 0.809016994375, -0.587785252292, -0.809016994375, -0.587785252292
    x, y = x.abs(), -y
    d = 2 * (k1x * x + k1y * y).clamp_min(0)
    x, y = x - d * k1x, y - d * k1y
    d = 2 * (k2x * x + k2y * y).clamp_min(0)
    x, y = x - d * k2x, y - d * k2y
    x, y = x.abs(), y - radius
    bx, by = inner * -k1y - 0.0, inner * k1x - 1.0
    h = ((x * bx + y * by) / (bx * bx + by * by)).clamp(0, radius)
    return torch.sqrt((x - bx * h) ** 2 + (y - by * h) ** 2 + 1e-8) * torch.sign(y * bx - x * by) - rounding


def _waves(
    canvas: _Canvas, picture: Tensor, base: Tensor, subject: Tensor, scene: Scene, rng: random.Random
) -> Tensor:
    """Layers of silk, back to front, each a sum of two sines filled to the bottom, with light along its crest."""
    large = scene.scale == "large"
    amplitude = (0.085 if large else 0.045) * _growth(canvas, scene, 0.35, 1.75)
    wavelength = rng.uniform(1.0, 1.3) if large else rng.uniform(0.55, 0.7)
    going = {"left": 1.0, "right": -1.0}.get(scene.motion, 0.0)
    drift = going * rng.uniform(0.55, 0.75) * canvas.progress
    rise = {"up": -1.0, "down": 1.0}.get(scene.motion, 0.0) * rng.uniform(0.36, 0.48) * canvas.half_h * 2
    level0 = rng.uniform(-0.06, 0.06)
    num_layers = 4
    for i in range(num_layers):
        depth = i / (num_layers - 1)
        own = wavelength * rng.uniform(0.9, 1.15)
        phase, phase2 = rng.uniform(0, math.tau), rng.uniform(0, math.tau)
        along = canvas.x + drift * (0.85 + 0.3 * depth)
        swing = 0.75 * torch.sin(along * (math.tau / own) + phase) + 0.25 * torch.sin(
            along * (2 * math.tau / own) + phase2
        )
        level = level0 + (depth - 0.42) * canvas.half_h * 0.86 + rise * (canvas.progress - 0.5)
        below = canvas.y - (level + amplitude * swing)
        shadow = _smooth((below + 0.10) / 0.12)
        picture = picture * (1 - 0.13 * shadow)
        crest = torch.exp(-(below.clamp_min(0) * 9.0))
        tone = subject * (0.80 + 0.10 * depth) + 0.01
        body = tone + (1 - tone) * 0.20 * crest + subject * 0.10 * crest
        body = _mix(base, body, 0.80 + 0.20 * depth)
        picture = _mix(picture, body, canvas.cover(-below, 0.006))
    return picture


def _bokeh(canvas: _Canvas, picture: Tensor, subject: Tensor, scene: Scene, rng: random.Random) -> Tensor:
    """Overlapping out-of-focus lights, each a soft disc with a brighter rim; nearer ones are larger and move
    further."""
    large = scene.scale == "large"
    area = canvas.half_w * canvas.half_h * 4
    count = round((5.0 if large else 10.0) * area)
    going_x = {"left": -1.0, "right": 1.0}.get(scene.motion, 0.0)
    going_y = {"up": -1.0, "down": 1.0}.get(scene.motion, 0.0)
    grow = _growth(canvas, scene, 0.55, 1.45)
    length = rng.uniform(0.5, 0.65)
    picture = picture.repeat(1, canvas.progress.shape[1], 1, 1)
    for i in range(count):
        near = (i + 0.5) / count
        radius = (0.13 + 0.12 * near if large else 0.06 + 0.08 * near) * rng.uniform(0.9, 1.1)
        reach = length * (0.75 + 0.5 * near)
        x0 = rng.uniform(-canvas.half_w - abs(going_x) * reach / 2, canvas.half_w + abs(going_x) * reach / 2)
        y0 = rng.uniform(-canvas.half_h - abs(going_y) * reach / 2, canvas.half_h + abs(going_y) * reach / 2)
        cx = x0 + going_x * reach * (canvas.progress - 0.5)
        cy = y0 + going_y * reach * (canvas.progress - 0.5)
        size = radius * grow
        soft = 0.020 + 0.020 * near
        strength = rng.uniform(0.45, 0.85)
        window = canvas.window(cx, cy, float(size.max()) + soft)
        x, y, patch = canvas.x[..., window[3]], canvas.y[..., window[2], :], picture[window]
        distance = torch.sqrt((x - cx) ** 2 + (y - cy) ** 2 + 1e-8) - size
        rim = torch.exp(-((distance + soft * 1.2) ** 2) / (2 * soft * soft))
        body = subject + (1 - subject) * (0.05 + 0.14 * rim)
        picture[window] = _mix(patch, body, strength * canvas.cover(distance, soft))
    return picture


def _gradient(canvas: _Canvas, picture: Tensor, subject: Tensor, scene: Scene, rng: random.Random) -> Tensor:
    """A broad band of coloured light with a slow bend, sweeping over the wall."""
    wide = (rng.uniform(0.34, 0.42) if scene.scale == "large" else rng.uniform(0.18, 0.24)) * _growth(
        canvas, scene, 0.5, 1.5
    )
    upright = scene.motion in ("left", "right") or (
        scene.motion in ("growing", "shrinking") and rng.random() < 0.5
    )
    lean = rng.uniform(-0.45, 0.45)
    cos, sin = math.cos(lean), math.sin(lean)
    across, along = (canvas.x, canvas.y) if upright else (canvas.y, canvas.x)
    s, q = across * cos + along * sin, along * cos - across * sin
    s = s + 0.07 * torch.sin(q * (math.tau / 1.7) + rng.uniform(0, math.tau))
    half = canvas.half_w if upright else canvas.half_h
    going = {"left": -1.0, "up": -1.0, "right": 1.0, "down": 1.0}.get(scene.motion, 0.0)
    length = max(rng.uniform(0.75, 1.0) * half, 0.45)
    centre = rng.uniform(-0.12, 0.12) * half + going * length * (canvas.progress - 0.5)
    band = torch.exp(-(((s - centre) / wide) ** 2))
    core = band * band
    body = subject + (1 - subject) * 0.16 * core
    return _mix(picture, body, 0.94 * band)
