"""The graph: a pure value that can be read, compared and tested without ffmpeg."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from wanflow.assemble import graph, presets
from wanflow.assemble.graph import Picture, Shot, Words

STORY = presets.resolve("instagram-story", "story", fps=24, interpolate=True)
SHOT = Shot(
    Path("/nowhere/m.mp4"),
    2.125,
    8.0,
    (Picture(Path("/w/0.png"), 3, 4), Words(Path("/w/1.ass"), Path("/w/1-fonts"))),
)


def filters(arguments: list[str]) -> str:
    return arguments[arguments.index("-filter_complex") + 1]


def test_same_values_give_the_same_command_and_touch_no_file() -> None:
    first = graph.build((SHOT,), STORY, Path("/o/v.mp4"), Path("/o/p.jpg"))
    assert first == graph.build((SHOT,), STORY, Path("/o/v.mp4"), Path("/o/p.jpg"))
    assert all(isinstance(argument, str) for argument in first)


def test_interpolation_happens_at_the_masters_size() -> None:
    """Motion estimation at 1080x1920 costs thirty times what it costs at the size of the master."""
    chain = filters(graph.build((SHOT,), STORY, Path("v.mp4"), None))
    assert chain.index("minterpolate") < chain.index("scale=")


def test_frames_are_only_interpolated_where_some_are_missing() -> None:
    assert "minterpolate" not in filters(graph.build((replace(SHOT, fps=24.0),), STORY, Path("v.mp4"), None))
    assert "minterpolate" not in filters(
        graph.build((SHOT,), replace(STORY, interpolate=False), Path("v.mp4"), None)
    )


def test_every_input_is_kept_off_the_network() -> None:
    arguments = graph.build(
        (SHOT, replace(SHOT, master=Path("/nowhere/n.mp4"), layers=())), STORY, Path("v.mp4"), None
    )
    assert arguments.count("-protocol_whitelist") == arguments.count("-i")
    assert {arguments[i + 1] for i, a in enumerate(arguments) if a == "-protocol_whitelist"} == {"file,pipe"}


def test_odd_paths_stay_paths() -> None:
    """A temporary directory may be called anything; a quote in it must not end a filter."""
    odd = Words(Path("/w/it's [a];b,c:d/1.ass"), Path("/w/f"))
    chain = filters(graph.build((replace(SHOT, layers=(odd,)),), STORY, Path("v.mp4"), None))
    assert "it's" not in chain
    assert "[a];b" not in chain


def test_length_is_that_of_the_scenes_in_whole_frames() -> None:
    assert graph.num_frames((SHOT, SHOT), STORY) == 102


def test_ntsc_rates_are_exact() -> None:
    arguments = graph.build((SHOT,), replace(STORY, fps=29.97), Path("v.mp4"), None)
    assert arguments[arguments.index("-r") + 1] == "30000/1001"
