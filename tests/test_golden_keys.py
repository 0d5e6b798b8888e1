"""The golden file: keys of many jobs, which nothing may change by accident.

After a change that is meant, ``python -m tests.test_golden_keys`` writes the file anew.
"""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wanflow import keys
from wanflow.inputs import Inputs
from wanflow.job import Job
from wanflow.manifest import read_variants
from wanflow.model import EngineSpec, LastImage, Mode, Sampling, Variant

GOLDEN = Path(__file__).with_name("golden_keys.json")

#: 1x1 red; the bytes are in the keys, so they must not depend on an encoder's version
_PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
)
#: two frames of 16x16, half a second
_WEBM = base64.b64decode(
    "GkXfo59ChoEBQveBAULygQRC84EIQoKEd2VibUKHgQJChYECGFOAZwH/////////EU2bdJxNu4tTq4QVSalmU6yBoU27i1OrhBZUrmtTrIG77A"
    "EAAAAAAAB3AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
    "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAVSalmlSrXsYMPQkBNgIRMYXZmV0GETGF2ZhZUrmu+rgEAAAAAAA"
    "A114EBc8WIAAAAAAAAAAGcgQAitZyDdW5kiIEAhoVWX1ZQOIOBASPjg4QO5rKA4IawgRC6gRAfQ7Z1wueBAKOjgQAAgBACAJ0BKhAAEAAARwiF"
    "hYiFhIgCAgAMDWAA/v+rUICjmIEA+gCxAQAFEKwAGAAwKC/0ACAA/vH3AA=="
)
#: a tenth of a second of a square wave, 8 bits at 8 kHz
_WAV_DATA = bytes([64, 192]) * 400
_WAV = (
    b"RIFF" + (36 + len(_WAV_DATA)).to_bytes(4, "little") + b"WAVEfmt " + bytes([16, 0, 0, 0, 1, 0, 1, 0])
    + (8000).to_bytes(4, "little") * 2 + bytes([1, 0, 8, 0])
    + b"data" + len(_WAV_DATA).to_bytes(4, "little") + _WAV_DATA
)  # fmt: skip
#: low-rank weights of rank 1 for one layer of width 1, all zero
_HEADER = json.dumps(
    {
        f"diffusion_model.blocks.0.self_attn.q.lora_{part}.weight": {
            "dtype": "F32", "shape": [1, 1], "data_offsets": [4 * i, 4 * i + 4]
        }
        for i, part in enumerate(("down", "up"))
    }
).encode()  # fmt: skip
_LORA = len(_HEADER).to_bytes(8, "little") + _HEADER + bytes(8)
ENGINE = EngineSpec(
    url="anywhere",
    family="wan",
    name="golden",
    weights="0123456789abcdef" * 4,
    modes=frozenset({Mode.T2V, Mode.I2V}),
    fps=16.0,
    grid=16,
    frame_stride=4,
    sizes=((832, 480), (480, 832)),
    num_frames=81,
    sampling=Sampling(40, 4.0, 3.0, 12.0, "unipc", 0.875),
    hints=(("max_positions", 1024), ("refine_scale", 2.0), ("refine_strength", 0.3), ("refine_steps", 12)),
    last_image=LastImage.MAY,
)
_SRT = (
    "1\n00:00:00,500 --> 00:00:01,250\nHello <i>Ann</i>\n\n2\n00:00:01,250 --> 00:00:02,000\nWelcome\nback\n"
)
ROW = {"variant_id": "ann", "prompt": "waves", "image": "", "headline": "Hello Ann", "logo": "dot.png"}
LAYERS = [
    {"image": {"url": "{{ logo }}", "at": "top-left", "height": "8%"}},
    {"text": {"value": "{{ headline }}", "at": "lower-third", "style": "headline"}},
    {"box": {"color": "#102030", "at": "bottom", "height": "10%", "opacity": 0.5}},
]
#: name -> (changes of the job, changes of the row)
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "other prompt": ({}, {"prompt": "bokeh"}),
    "prompt in another script": ({}, {"prompt": "Wellen über Zürich, 波"}),
    "negative prompt": ({"clip": {"negative_prompt": "text"}}, {}),
    "from an image": ({}, {"image": "dot.png"}),
    "from an image to an image": ({"clip": {"last_image": "dot.png"}}, {"image": "dot.png"}),
    "from a video": ({"clip": {"video": "dot.webm", "seconds": 0.5}}, {}),
    "from a video, little of it": ({"clip": {"strength": 0.25, "seconds": 0.5}}, {"video": "dot.webm"}),
    "from a video, turbo": (
        {
            "clip": {"video": "dot.webm", "seconds": 0.5},
            "engine": {"checkpoint": "golden", "profile": "turbo", "turbo": {"distilled": True}},
        },
        {},
    ),
    "seed": ({"clip": {"seed": 7}}, {}),
    "aspect": ({"clip": {"aspect": "9x16"}, "outputs": [{"name": "story", "preset": "instagram-story"}]}, {}),
    "size": ({"clip": {"size": "640x384"}}, {}),
    "seconds": ({"clip": {"seconds": 2}}, {}),
    "steps": ({"engine": {"checkpoint": "golden", "steps": 20}}, {}),
    "guidance": ({"engine": {"checkpoint": "golden", "guidance": 5, "guidance_low": 2.5}}, {}),
    "sampler": ({"engine": {"checkpoint": "golden", "scheduler": "euler", "flow_shift": 5}}, {}),
    "fast": ({"engine": {"checkpoint": "golden", "profile": "fast"}}, {}),
    "fast with numbers": (
        {
            "engine": {
                "checkpoint": "golden",
                "profile": "fast",
                "fast": {"guidance_until": 0.5, "cache": 0.1, "cache_low": 0, "fp8": True},
            }
        },
        {},
    ),
    "fast with both branches in one forward": (
        {"engine": {"checkpoint": "golden", "profile": "fast", "fast": {"batch_guidance": True}}},
        {},
    ),
    "fast with extrapolated steps": (
        {"engine": {"checkpoint": "golden", "profile": "fast", "fast": {"taylor": 2, "taylor_low": 3}}},
        {},
    ),
    "turbo": (
        {
            "engine": {
                "checkpoint": "golden",
                "profile": "turbo",
                "turbo": {"high": "dot.safetensors", "low": "dot.safetensors"},
            }
        },
        {},
    ),
    "turbo of distilled weights": (
        {"engine": {"checkpoint": "golden", "profile": "turbo", "turbo": {"distilled": True}}, "cascade": ["refine"]},
        {},
    ),
    "lora": ({"clip": {"lora": [{"url": "dot.safetensors", "scale": 0.8, "expert": "low"}]}}, {}),
    "two loras": ({"clip": {"lora": [{"url": "dot.safetensors"}, {"url": "dot.safetensors", "expert": "high"}]}}, {}),
    "refine": ({"cascade": ["refine"]}, {}),
    "refine with numbers": ({"cascade": [{"refine": {"scale": 2, "strength": 0.25}}]}, {}),
    "two refines": ({"cascade": [{"refine": {"strength": 0.3}}, {"refine": {"scale": 1, "strength": 0.1}}]}, {}),
    "branch at the boundary": ({"clip": {"branch": {"at": "boundary", "on": "beach"}}}, {}),
    "branch, other prompt": ({"clip": {"branch": {"at": "boundary", "on": "beach"}}}, {"prompt": "bokeh"}),
    "branch of another trunk": ({"clip": {"branch": {"at": "boundary", "on": "sea"}}}, {}),
    "branch at half of the steps": ({"clip": {"branch": {"at": "50%", "on": "beach"}}}, {}),
    "branch from an image, refined": (
        {"clip": {"branch": {"at": 0.5, "on": "beach"}}, "cascade": ["refine"]},
        {"image": "dot.png"},
    ),
    "layers": ({"layers": LAYERS}, {}),
    "other headline": ({"layers": LAYERS}, {"headline": "Bye"}),
    "no headline": ({"layers": LAYERS}, {"headline": ""}),
    "music": ({"sound": {"music": "dot.wav"}}, {}),
    "music, with numbers": (
        {"sound": {"music": {"url": "dot.wav", "volume": -6, "duck": 9, "skip": 0.05, "fade_in": 1, "fade_out": 2}}},
        {},
    ),
    "voice": ({"sound": {"voice": "dot.wav"}}, {}),
    "voice, later and longer": (
        {"sound": {"voice": {"url": "dot.wav", "start": 6, "volume": 2, "extend": "hold"}}, "layers": LAYERS},
        {},
    ),
    "voice and music at another loudness": (
        {"sound": {"voice": "dot.wav", "music": "dot.wav", "loudness": -23}},
        {},
    ),
    "captions": ({"layers": [{"captions": {"url": "dot.srt"}}]}, {}),
    "captions with a look": (
        {
            "layers": [
                {
                    "captions": {
                        "url": "dot.srt", "at": "top", "style": "subhead", "color": "#fa0", "background": "#000",
                        "size": "5%", "margin": "2%", "opacity": 0.9, "width": "60%",
                    }
                }
            ]
        },
        {},
    ),
    "width": ({"outputs": [{"name": "video", "preset": "preview", "width": 640, "height": 360}]}, {}),
    "crf, fit and poster": (
        {"outputs": [{"name": "video", "preset": "preview", "crf": 28, "fit": "contain", "poster": False}]},
        {},
    ),
    "two outputs": (
        {
            "clip": {"aspect": ["9x16", "16x9"]},
            "outputs": [
                {"name": "story", "preset": "instagram-story", "from": "9x16"},
                {"name": "link", "preset": "linkedin", "from": "16x9"},
            ],
        },
        {},
    ),
}  # fmt: skip


def found() -> dict[str, dict[str, str]]:
    """Case -> stage (or output) -> key."""
    return {name: dict(_keys_of(*case)) for name, case in CASES.items()}


def _keys_of(changes: dict[str, Any], row: dict[str, Any]) -> Iterator[tuple[str, str]]:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "dot.png").write_bytes(_PNG)
        Path(folder, "dot.webm").write_bytes(_WEBM)
        Path(folder, "dot.wav").write_bytes(_WAV)
        Path(folder, "dot.safetensors").write_bytes(_LORA)
        Path(folder, "dot.srt").write_text(_SRT)
        Path(folder, "rows.jsonl").write_text(json.dumps(ROW | row) + "\n")
        job = Job.from_dict(
            {
                "wanflow": 1,
                "name": "golden",
                "manifest": "rows.jsonl",
                "engine": {"checkpoint": "golden"},
                "publish": {"url": "out"},
                **changes,
            },
            folder,
        )
        [variant] = read_variants(job, dict.fromkeys(Mode, ENGINE), Inputs(folder))
    assert isinstance(variant, Variant), variant
    for aspect, clip in variant.scenes[0].clips:
        yield from ((f"{aspect} {stage.name}", stage.key) for stage in keys.stages(clip))
    for output, _ in variant.outputs:
        yield f"output {output.name}", keys.output_key(variant, output)


def test_keys_are_those_of_the_golden_file() -> None:
    """An innocent refactoring must not cost a night of eight GPUs."""
    golden, now = json.loads(GOLDEN.read_text()), found()
    changed = [
        f"{name}, {stage}"
        for name in golden
        for stage in golden[name]
        if now.get(name, {}).get(stage) != golden[name][stage]
    ]
    assert not changed, (
        "keys have changed, so everybody's results of these stages would be rendered again after an upgrade, and "
        "`run` would refuse to until somebody accepts it:\n  " + "\n  ".join(changed) + "\n"
        "If pixels are the same as before, undo what changed the key (a field of model.Clip, Sampling, a Layer or "
        "Output, a default, a preset). If they are not, raise the stage's version in keys.VERSIONS, write the golden "
        "file anew with `python -m tests.test_golden_keys`, and say so in the changelog."
    )
    assert set(now) == set(golden), "cases without golden keys: python -m tests.test_golden_keys"


def test_cases_of_the_golden_file_differ() -> None:
    """A case whose keys are all another's tests nothing."""
    assert len({tuple(case.values()) for case in found().values()}) == len(CASES)


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(found(), indent=1, sort_keys=True) + "\n")
