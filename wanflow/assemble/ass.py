"""The .ass script that libass draws: blocks that ``text.py`` has measured and placed, as events.

A user's words only ever stand in the text field of an event, with the three characters that ASS gives a meaning
(backslash and braces) neutralised; they never reach a filter string or a command line. Each line is an event of its
own at a measured position, so what is drawn is what was measured.

Knows nothing of ffmpeg, and of fonts only their names and metrics. Limits: no animation but fades.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from wanflow.assemble import layout
from wanflow.assemble.fonts import FontFile, base_font
from wanflow.assemble.text import Block, padding, parse_color
from wanflow.model import BoxLayer, TextLayer


def script(blocks: Sequence[Block], width: int, height: int, seconds: float) -> str:
    """The .ass file that draws ``blocks``, first one lowest, on a scene of this size and length."""
    events: list[str] = []
    for block in blocks:
        place = block.layer.place
        end = seconds + 1 if place.end_s is None else place.end_s
        when = f"{_time(place.start_s)},{_time(end)}"
        for tags in _draw(block):
            events.append(f"Dialogue: {len(events)},{when},W,,0,0,0,,{tags}")
    return _HEADER.format(width=width, height=height, font=font_name(base_font())) + "".join(
        event + "\n" for event in events
    )


_HEADER = """[Script Info]
ScriptType: v4.00+
PlayResX: {width}
PlayResY: {height}
WrapStyle: 2
ScaledBorderAndShadow: yes
Kerning: yes
YCbCr Matrix: None

[V4+ Styles]
Format: Name, Fontname, Fontsize, PrimaryColour, SecondaryColour, OutlineColour, BackColour, Bold, Italic, Underline, \
StrikeOut, ScaleX, ScaleY, Spacing, Angle, BorderStyle, Outline, Shadow, Alignment, MarginL, MarginR, MarginV, Encoding
Style: W,{font},40,&H00FFFFFF,&H00FFFFFF,&H00000000,&H00000000,0,0,0,0,100,100,0,0,1,0,0,1,0,0,0,-1

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
"""


def neutral(text: str) -> str:
    """``text`` for the text field of an event, where it means nothing but itself."""
    return text.replace("\\", "\\\u2060").replace("{", "\\{").replace("}", "\\}")


def _draw(block: Block) -> list[str]:
    """The events of one block without their times, lowest first."""
    layer, place = block.layer, block.layer.place
    fade = (
        f"\\fad({round(place.fade_s * 1000)},{round(place.fade_s * 1000) if place.end_s is not None else 0})"
    )
    if isinstance(layer, BoxLayer):
        return [_shape(block, layer.color, place.opacity, 0.0, fade)]
    style = block.style
    assert style is not None
    assert isinstance(layer, TextLayer)
    events: list[str] = []
    if style.background is not None and block.lines:
        radius = block.height / 2 if style.pill and len(block.lines) == 1 else 0.35 * block.size
        if style.pill:
            shadow = replace(block, y=block.y + 0.10 * block.size)
            events.append(
                _shape(
                    shadow, "#000000", 0.28 * place.opacity, radius, f"{fade}\\blur{0.16 * block.size:.1f}"
                )
            )
        events.append(_shape(block, style.background, place.opacity, radius, fade))
    color = layer.color or style.color or _readable_on(style.background or "#000000")
    if style.background is None:
        soft = f"\\bord{0.02 * block.size:.1f}\\blur{0.13 * block.size:.1f}"
        events += _words(block, _behind(color), 0.50 * place.opacity, 0.05 * block.size, soft + fade)
    return events + _words(block, color, place.opacity, 0.0, "\\bord0" + fade)


def _words(block: Block, color: str, opacity: float, drop: float, tags: str) -> list[str]:
    style = block.style
    assert style is not None
    pad_x, pad_y = padding(style, style.background)
    side = (
        layout.align(block.layer.place.at) if style.background is None or len(block.lines) > 1 else "center"
    )
    left, right = block.x + pad_x * block.size, block.x + block.width - pad_x * block.size
    number, x = {"left": (1, left), "center": (2, (left + right) / 2), "right": (3, right)}[side]
    cap = max((font.cap_em for line in block.lines for font, _ in line), default=0.7)
    baseline = block.y + (pad_y + cap) * block.size + drop
    events = []
    for i, line in enumerate(block.lines):
        bottom = baseline + (i * style.line + max(font.descent_em for font, _ in line)) * block.size
        runs = "".join(
            f"{{\\fn{font_name(font)}\\fs{font.line_em * block.size:.2f}}}{neutral(text)}"
            for font, text in line
        )
        paint = f"\\1c{_ass_color(color)}\\3c{_ass_color(color)}\\alpha{_alpha(opacity)}"
        look = f"\\an{number}\\pos({x:.2f},{bottom:.2f}){paint}"
        events.append(f"{{{look}{tags}}}{runs}")
    return events


def _shape(block: Block, color: str, opacity: float, radius: float, tags: str) -> str:
    w, h, r = block.width, block.height, min(radius, block.width / 2, block.height / 2)
    look = f"\\an7\\pos({block.x:.2f},{block.y:.2f})\\bord0\\1c{_ass_color(color)}\\alpha{_alpha(opacity)}{tags}\\p1"
    if r <= 0:
        return f"{{{look}}}m 0 0 l {w:.1f} 0 {w:.1f} {h:.1f} 0 {h:.1f}"
    k = r * 0.4477  # where a quarter circle's control points lie
    path = (
        f"m {r:.1f} 0 l {w - r:.1f} 0 b {w - k:.1f} 0 {w:.1f} {k:.1f} {w:.1f} {r:.1f} l {w:.1f} {h - r:.1f} "
        f"b {w:.1f} {h - k:.1f} {w - k:.1f} {h:.1f} {w - r:.1f} {h:.1f} l {r:.1f} {h:.1f} "
        f"b {k:.1f} {h:.1f} 0 {h - k:.1f} 0 {h - r:.1f} l 0 {r:.1f} b 0 {k:.1f} {k:.1f} 0 {r:.1f} 0"
    )
    return f"{{{look}}}{path}"


def _readable_on(background: str) -> str:
    """Near-black or white, whichever stands out more."""
    return "#141414" if _luminance(background) > 0.30 else "#ffffff"


def _behind(color: str) -> str:
    """The colour of a soft shadow (behind light words) or glow (behind dark ones)."""
    return "#000000" if _luminance(color) > 0.15 else "#ffffff"


def _luminance(color: str) -> float:
    """Relative luminance of WCAG 2, 0..1, with its curve approximated by gamma 2.2."""
    red, green, blue = (float((c / 255) ** 2.2) for c in parse_color(color))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def font_name(font: FontFile) -> str:
    return re.sub(r"[\\{}()\r\n]", "", font.name)


def _ass_color(color: str) -> str:
    red, green, blue = parse_color(color)
    return f"&H{blue:02X}{green:02X}{red:02X}&"


def _alpha(opacity: float) -> str:
    return f"&H{round(255 * (1 - max(0.0, min(opacity, 1.0)))):02X}&"


def _time(seconds: float) -> str:
    hundredths = round(seconds * 100)
    return f"{hundredths // 360000}:{hundredths // 6000 % 60:02d}:{hundredths // 100 % 60:02d}.{hundredths % 100:02d}"
