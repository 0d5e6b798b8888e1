"""Draws the product cut-outs and logos of the ad demo: vector paths with light and shadow, as PNG with alpha.

    pip install skia-python fontpkg-poppins && python manifests/ad_pictures.py

The pictures are committed, so nobody needs this (nor skia) to run the demo. All brands and products are made up.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

import fontpkg_poppins
import skia

FOLDER = Path(__file__).with_name("ad_variants")
SIZE = 720
INK = {"white": 0xFFFFFFFF, "dark": 0xFF17181C}


def argb(colour: str, alpha: float = 1.0) -> int:
    return round(255 * alpha) << 24 | int(colour.lstrip("#"), 16)


def shade(colour: str, amount: float) -> str:
    """Lighter (amount above 0) or darker, towards white or black."""
    target = 255 if amount > 0 else 0
    parts = [int(colour.lstrip("#")[i : i + 2], 16) for i in (0, 2, 4)]
    return "#" + "".join(f"{round(p + (target - p) * abs(amount)):02x}" for p in parts)


def paint(
    shader: skia.Shader | None = None, colour: int = 0, blur: float = 0.0, stroke: float = 0.0
) -> skia.Paint:
    made = skia.Paint(AntiAlias=True, Dither=True)
    if shader is not None:
        made.setShader(shader)
    else:
        made.setColor(colour)
    if blur:
        made.setMaskFilter(skia.MaskFilter.MakeBlur(skia.kNormal_BlurStyle, blur))
    if stroke:
        made.setStyle(skia.Paint.kStroke_Style)
        made.setStrokeWidth(stroke)
        made.setStrokeCap(skia.Paint.kRound_Cap)
    return made


def linear(x0: float, y0: float, x1: float, y1: float, *stops: tuple[float, str]) -> skia.Shader:
    colours, places = [argb(c) for _, c in stops], [p for p, _ in stops]
    return skia.GradientShader.MakeLinear([skia.Point(x0, y0), skia.Point(x1, y1)], colours, places)


def radial(x: float, y: float, radius: float, *stops: tuple[float, str]) -> skia.Shader:
    return skia.GradientShader.MakeRadial(
        skia.Point(x, y), radius, [argb(c) for _, c in stops], [p for p, _ in stops]
    )


def cylinder(left: float, right: float, colour: str) -> skia.Shader:
    """A round body lit from the upper left: core shadow on the right, reflected light at its edge."""
    return linear(
        left, 0, right, 0,
        (0.0, shade(colour, -0.30)), (0.10, shade(colour, -0.05)), (0.26, shade(colour, 0.38)),
        (0.40, shade(colour, 0.08)), (0.72, shade(colour, -0.34)), (0.92, shade(colour, -0.52)),
        (1.0, shade(colour, -0.30)),
    )  # fmt: skip


def ground_shadow(canvas: skia.Canvas, x: float, y: float, width: float) -> None:
    for spread, alpha in ((1.0, 0.28), (0.72, 0.40)):
        box = skia.Rect.MakeXYWH(x - width * spread / 2, y - 16, width * spread, 32)
        canvas.drawOval(box, paint(colour=argb("#000000", alpha), blur=15))


def svg(path: str) -> skia.Path:
    """A path written as in SVG, absolute M, L, C and Z alone."""
    made = skia.Path()
    for verb, numbers in re.findall(r"([MLCZ])([^MLCZ]*)", path):
        at = [float(number) for number in numbers.split()]
        if verb == "Z":
            made.close()
            continue
        step, add = {"M": (2, made.moveTo), "L": (2, made.lineTo), "C": (6, made.cubicTo)}[verb]
        for k in range(0, len(at), step):
            add(*at[k : k + step])
    return made


def bottle(canvas: skia.Canvas, colour: str) -> None:
    """An insulated steel bottle with a carry loop."""
    ground_shadow(canvas, 366, 694, 250)
    left, right = 262.0, 458.0
    body = svg(
        "M262 286 C262 232 306 220 306 186 L306 168 L414 168 L414 186 C414 220 458 232 458 286 L458 668"
        " C458 686 446 696 428 696 L292 696 C274 696 262 686 262 668 Z"
    )
    canvas.drawPath(body, paint(cylinder(left, right, colour)))
    canvas.save()
    canvas.clipPath(body, skia.ClipOp.kIntersect, True)
    canvas.drawRect(skia.Rect.MakeLTRB(left, 646, right, 700), paint(cylinder(left, right, "#b9c0c7")))
    canvas.drawRect(skia.Rect.MakeLTRB(left, 643, right, 647), paint(colour=argb("#000000", 0.30)))
    canvas.drawRect(skia.Rect.MakeLTRB(300, 240, 314, 640), paint(colour=argb("#ffffff", 0.32), blur=7))
    canvas.drawRect(skia.Rect.MakeLTRB(250, 186, 470, 206), paint(colour=argb("#000000", 0.45), blur=7))
    canvas.restore()
    canvas.drawRoundRect(skia.Rect.MakeLTRB(300, 150, 420, 192), 8, 8, paint(cylinder(300, 420, "#c9ced4")))
    loop = svg("M322 96 C322 36 398 36 398 96")
    canvas.drawPath(
        loop, paint(linear(310, 0, 410, 0, (0, "#55595f"), (0.4, "#2f3236"), (1, "#17181a")), stroke=22)
    )
    canvas.drawRoundRect(skia.Rect.MakeLTRB(296, 86, 424, 160), 16, 16, paint(cylinder(296, 424, "#3a3e43")))
    for y in (104, 118, 132):
        canvas.drawRect(skia.Rect.MakeLTRB(298, y, 422, y + 3), paint(colour=argb("#000000", 0.25)))
    leaf = svg("M360 520 C318 486 318 436 360 400 C402 436 402 486 360 520 Z M360 520 L360 452")
    canvas.drawPath(leaf, paint(colour=argb("#ffffff", 0.88), stroke=6))


def cup(canvas: skia.Canvas, colour: str) -> None:
    """A takeaway cup: white paper, a sleeve in the brand's colour, a dark lid."""
    ground_shadow(canvas, 366, 694, 280)
    body = svg("M206 172 L514 172 L466 676 C465 690 455 698 440 698 L280 698 C265 698 255 690 254 676 Z")
    canvas.drawPath(body, paint(cylinder(206, 514, "#f1ece4")))
    sleeve = svg("M220 318 C300 340 420 340 500 318 L476 566 C410 586 310 586 244 566 Z")
    canvas.drawPath(sleeve, paint(cylinder(216, 504, colour)))
    for offset, alpha in ((-7.0, 0.10), (252.0, 0.14)):
        edge = svg(f"M220 {322 + offset} C300 {344 + offset} 420 {344 + offset} 500 {322 + offset}")
        canvas.save()
        canvas.clipPath(body, skia.ClipOp.kIntersect, True)
        canvas.drawPath(edge, paint(colour=argb("#000000", alpha), stroke=7, blur=4))
        canvas.restore()
    bean = skia.Path()
    bean.addOval(skia.Rect.MakeXYWH(-42, -58, 84, 116))
    canvas.save()
    canvas.translate(360, 452)
    canvas.rotate(28)
    canvas.drawPath(bean, paint(colour=argb("#fff7ec", 0.95)))
    canvas.drawPath(svg("M6 -58 C-26 -20 26 20 -6 58"), paint(colour=argb(shade(colour, -0.28)), stroke=8))
    canvas.restore()
    canvas.drawPath(
        svg("M192 138 L528 138 L520 182 C440 196 280 196 200 182 Z"), paint(cylinder(192, 528, "#3b2f2a"))
    )
    canvas.drawRoundRect(skia.Rect.MakeLTRB(184, 118, 536, 146), 14, 14, paint(cylinder(184, 536, "#4a3c35")))
    canvas.drawPath(
        svg("M222 118 L236 74 C238 66 244 62 252 62 L468 62 C476 62 482 66 484 74 L498 118 Z"),
        paint(cylinder(222, 498, "#40342e")),
    )
    canvas.drawRoundRect(
        skia.Rect.MakeLTRB(240, 58, 480, 74),
        8,
        8,
        paint(linear(240, 0, 480, 0, (0, "#6a5850"), (1, "#2c231f"))),
    )
    canvas.drawRoundRect(skia.Rect.MakeLTRB(330, 60, 390, 68), 4, 4, paint(colour=argb("#120d0b")))


def headphones(canvas: skia.Canvas, colour: str) -> None:
    """Over-ear headphones from the front, slightly turned."""
    ground_shadow(canvas, 360, 690, 420)
    arc = svg("M150 452 C138 236 226 92 360 92 C494 92 582 236 570 452")
    canvas.drawPath(
        arc,
        paint(
            linear(130, 90, 590, 450, (0, shade(colour, 0.22)), (0.45, colour), (1, shade(colour, -0.55))),
            stroke=46,
        ),
    )
    canvas.drawPath(
        svg("M168 330 C186 196 260 120 360 120 C460 120 534 196 552 330"),
        paint(linear(160, 110, 560, 330, (0, "#2c2d33"), (0.5, "#17181c"), (1, "#0c0c0f")), stroke=22),
    )
    canvas.drawPath(
        svg("M176 250 C208 158 276 104 350 98"), paint(colour=argb("#ffffff", 0.42), stroke=7, blur=4)
    )
    for side in (-1, 1):
        canvas.save()
        canvas.translate(360 + side * 208, 520)
        canvas.scale(side, 1)
        canvas.drawRoundRect(
            skia.Rect.MakeLTRB(-6, -140, 24, -40),
            12,
            12,
            paint(linear(-6, 0, 24, 0, (0, "#d7dade"), (1, "#7d8288"))),
        )
        canvas.drawRoundRect(
            skia.Rect.MakeLTRB(-92, -128, -12, 128),
            40,
            40,
            paint(linear(-92, 0, -12, 0, (0, "#0d0d10"), (0.5, "#33353b"), (1, "#141518"))),
        )
        shell = skia.RRect.MakeRectXY(skia.Rect.MakeLTRB(-34, -146, 76, 146), 52, 62)
        light = -40.0 if side < 0 else 60.0
        canvas.drawRRect(
            shell,
            paint(
                radial(
                    20 + (30 if side < 0 else -30),
                    -86,
                    260,
                    (0, shade(colour, 0.45)),
                    (0.35, colour),
                    (1, shade(colour, -0.62)),
                )
            ),
        )
        canvas.drawRRect(
            skia.RRect.MakeRectXY(skia.Rect.MakeLTRB(-16, -112, 58, 112), 37, 44),
            paint(linear(light, -112, 40, 112, (0, shade(colour, -0.30)), (1, shade(colour, 0.16)))),
        )
        canvas.drawCircle(21, 0, 20, paint(colour=argb("#ffffff", 0.85), stroke=5))
        canvas.restore()
    canvas.drawPath(
        svg("M122 440 C112 480 112 540 124 600"), paint(colour=argb("#ffffff", 0.38), stroke=8, blur=5)
    )


def sneaker(canvas: skia.Canvas, colour: str) -> None:
    """A running shoe from the side, toe to the right."""
    ground_shadow(canvas, 372, 600, 560)
    canvas.save()
    canvas.rotate(-9, 372, 400)
    sole = svg(
        "M62 470 C58 512 74 546 112 552 C250 566 520 566 640 550 C682 544 702 520 694 490 C690 472 676 466 650 466"
        " C470 482 250 476 110 440 C84 434 64 444 62 470 Z"
    )
    canvas.drawPath(sole, paint(linear(0, 440, 0, 562, (0, "#ffffff"), (0.55, "#eef1f5"), (1, "#b4bcc8"))))
    canvas.save()
    canvas.clipPath(sole, skia.ClipOp.kIntersect, True)
    canvas.drawPath(svg("M50 536 C240 552 520 552 712 530 L712 580 L50 580 Z"), paint(colour=argb("#1b1e25")))
    canvas.drawPath(svg("M70 498 C250 524 500 528 690 500"), paint(colour=argb(colour, 0.9), stroke=7))
    canvas.restore()
    upper = svg(
        "M84 452 C70 400 70 330 92 268 C98 250 112 246 126 256 C150 274 190 288 232 280 C262 274 282 258 298 236"
        " C304 226 316 224 326 232 C392 288 440 336 500 368 C556 396 640 398 676 436 C690 452 690 466 668 472"
        " C480 496 250 486 84 452 Z"
    )
    canvas.drawPath(
        upper,
        paint(linear(150, 230, 420, 520, (0, shade(colour, 0.30)), (0.5, colour), (1, shade(colour, -0.42)))),
    )
    canvas.save()
    canvas.clipPath(upper, skia.ClipOp.kIntersect, True)
    toe = svg("M520 372 C490 420 494 470 520 500 L720 500 L720 380 Z")
    canvas.drawPath(
        toe, paint(linear(500, 380, 690, 480, (0, shade(colour, -0.10)), (1, shade(colour, -0.50))))
    )
    heel = svg("M60 240 C110 300 150 380 150 500 L40 500 Z")
    canvas.drawPath(
        heel, paint(linear(70, 260, 150, 480, (0, shade(colour, -0.18)), (1, shade(colour, -0.55))))
    )
    for i in range(7):
        x = 200 + 34 * i
        canvas.drawPath(
            svg(f"M{x} 300 C{x + 10} 360 {x + 14} 420 {x + 6} 490"),
            paint(colour=argb("#000000", 0.10), stroke=4),
        )
    canvas.drawPath(
        svg("M176 452 L252 336 L300 404 L352 322 L426 470"), paint(colour=argb("#ffffff", 0.96), stroke=19)
    )
    canvas.drawPath(
        svg("M84 452 C250 490 480 496 680 466"), paint(colour=argb("#000000", 0.38), stroke=16, blur=7)
    )
    canvas.drawPath(
        svg("M330 242 C400 300 450 346 512 378 C560 400 620 404 660 428"),
        paint(colour=argb("#ffffff", 0.40), stroke=7, blur=4),
    )
    canvas.restore()
    collar = svg("M92 270 C98 248 112 246 126 256 C150 274 190 288 232 280 C262 274 282 258 298 236")
    canvas.drawPath(collar, paint(colour=argb(shade(colour, -0.62)), stroke=16))
    tongue = svg("M276 262 C284 220 300 190 326 184 C344 182 352 196 346 214 L334 246 Z")
    canvas.drawPath(
        tongue, paint(linear(280, 190, 350, 250, (0, shade(colour, 0.1)), (1, shade(colour, -0.5))))
    )
    for i in range(5):
        x, y = 334 + 32 * i, 262 + 27 * i
        canvas.drawPath(
            svg(f"M{x - 26} {y + 20} C{x - 10} {y - 6} {x + 8} {y - 8} {x + 16} {y + 2}"),
            paint(colour=argb("#000000", 0.30), stroke=13, blur=3),
        )
        canvas.drawPath(
            svg(f"M{x - 26} {y + 16} C{x - 10} {y - 10} {x + 8} {y - 12} {x + 16} {y - 2}"),
            paint(colour=argb("#f7f8fa"), stroke=11),
        )
    canvas.restore()


def mark(canvas: skia.Canvas, brand: str, ink: int) -> None:
    """A brand's sign, inside 0..100."""
    if brand == "kavo":
        canvas.drawCircle(50, 50, 44, paint(colour=ink, stroke=10))
        canvas.drawPath(svg("M62 16 C30 40 70 60 38 84"), paint(colour=ink, stroke=10))
    elif brand == "northlane":
        canvas.drawPath(svg("M8 82 L42 14 L58 46 L72 20 L94 82"), paint(colour=ink, stroke=11))
    elif brand == "onda":
        for i, height in enumerate((26, 58, 84, 58, 26)):
            x = 14 + 18 * i
            canvas.drawLine(x, 50 - height / 2, x, 50 + height / 2, paint(colour=ink, stroke=10))
    else:
        canvas.drawPath(
            svg("M50 92 C4 66 4 34 50 8 C96 34 96 66 50 92 Z M50 92 L50 44"), paint(colour=ink, stroke=9)
        )


def logo(brand: str, name: str, ink: int) -> skia.Image:
    file = Path(fontpkg_poppins.ROOT) / "files" / "Poppins-SemiBold.ttf"
    font = skia.Font(skia.Typeface.MakeFromFile(str(file)), 84)
    surface = skia.Surface(math.ceil(130 + font.measureText(name) + 8), 108)
    with surface as canvas:
        canvas.translate(4, 4)
        mark(canvas, brand, ink)
        canvas.drawString(name, 124, 80, font, paint(colour=ink))
    return surface.makeImageSnapshot()


PRODUCTS: dict[str, tuple[str, Callable[[skia.Canvas, str], None], str]] = {
    "kavo": ("Kavo", cup, "#d9622b"),
    "northlane": ("Northlane", sneaker, "#2f6bff"),
    "onda": ("Onda", headphones, "#7b4dff"),
    "verda": ("Verda", bottle, "#159a78"),
}


def cut(picture: skia.Image) -> skia.Image:
    """Without its empty borders."""
    import numpy as np

    rows, columns = np.nonzero(picture.toarray()[..., 3] > 2)
    return picture.makeSubset(
        skia.IRect.MakeLTRB(int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)
    )


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for brand, (name, draw, colour) in PRODUCTS.items():
        surface = skia.Surface(SIZE, SIZE + 80)  # shadows are soft
        with surface as canvas:
            draw(canvas, colour)
        cut(surface.makeImageSnapshot()).save(str(FOLDER / f"{brand}-product.png"), skia.kPNG)
        for ink, value in INK.items():
            logo(brand, name, value).save(str(FOLDER / f"{brand}-logo-{ink}.png"), skia.kPNG)


if __name__ == "__main__":
    main()
