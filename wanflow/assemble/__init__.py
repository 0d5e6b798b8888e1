"""Assembly: masters, layers, sound and an output's preset become a finished file and its poster.

:func:`assemble` is the whole interface. It prepares pictures and words in a work directory of its own, measures how
loud voices and music are, builds the graph (``graph.py``, ``sound.py``, pure) and runs it (``ffmpeg.py``). The same
inputs give the same bytes. Raise ``keys.VERSIONS["output"]`` when the same job would look otherwise (graph, styles,
packaged fonts), ``VERSIONS["sound"]`` when it would sound otherwise.

Knows nothing of keys, stores, Ray or engines. Limits: H.264 and AAC, hard cuts between scenes.
"""

from __future__ import annotations

import math
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wanflow import audio
from wanflow.errors import AssembleError
from wanflow.model import ImageLayer, Layer, Output, OutputFile, Scene, Source, Variant

if TYPE_CHECKING:
    from wanflow.assemble import graph, sound
    from wanflow.assemble.layout import Area

#: An assembly that takes longer than this times the video's length (at 1080p) is stuck.
_TIMEOUT_BASE_S = 120.0
_TIMEOUT_PER_SECOND = 120.0


@dataclass(frozen=True, slots=True)
class Finished:
    """What an assembly made."""

    #: ``video`` and, if wanted, ``poster``
    files: dict[str, Path]
    #: of each scene, the parts of the picture that a layer lies over, at whatever time and however transparent
    covered: tuple[tuple[Area, ...], ...]


def timeout_s(seconds: float) -> float:
    """How long the assembly of a file of ``seconds`` may take."""
    return _TIMEOUT_BASE_S + _TIMEOUT_PER_SECOND * seconds


def assemble(
    variant: Variant,
    file: OutputFile,
    masters: Mapping[str, Path],
    sources: Mapping[str, Path],
    out_dir: Path,
) -> Finished:
    """Makes one file of ``variant`` in ``out_dir``, and its poster if wanted.

    ``masters`` maps the keys in ``file.masters`` to local files, ``sources`` digests of images, fonts and sounds.
    Raises :class:`AssembleError`, whose message names the variant and the output.
    """
    from wanflow.assemble import ffmpeg, graph

    output = file.output
    video, poster = out_dir / "video.mp4", out_dir / "poster.jpg"
    work = Path(tempfile.mkdtemp(prefix="wanflow-assemble-"))
    try:
        prepared = [
            _shot(scene, output, _master(masters, key), sources, work / str(i))
            for i, (scene, key) in enumerate(zip(variant.scenes, file.masters, strict=True))
        ]
        shots = tuple(shot for shot, _ in prepared)
        out_dir.mkdir(parents=True, exist_ok=True)
        mix = _mix(variant, shots, output, sources, work) if variant.has_sound else None
        arguments = graph.build(shots, output, video, poster if output.poster else None, mix)
        seconds = sum(shot.seconds for shot in shots)
        said = ffmpeg.run(arguments, timeout_s=timeout_s(seconds))
        if gone := re.findall(r"failed to find any fallback with glyph (0x[1-9A-Fa-f][0-9A-Fa-f]*)", said):
            raise AssembleError(
                f"no font could draw {', '.join(sorted(set(gone)))}; name one with the layer's `font`"
            )
    except AssembleError as error:
        raise AssembleError(
            f"variant {variant.variant_id}, output {output.name}: {error.message}", error.stderr
        ) from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
    files = {"video": video, "poster": poster} if output.poster else {"video": video}
    return Finished(files, tuple(tuple(covered) for _, covered in prepared))


def _master(masters: Mapping[str, Path], key: str) -> Path:
    path = masters.get(key)
    if path is None or not path.is_file():
        raise AssembleError(
            f"the master {key[:12]} is not here; run again, its clip is rendered or fetched anew"
        )
    return path


def _shot(
    scene: Scene, output: Output, master: Path, sources: Mapping[str, Path], work: Path
) -> tuple[graph.Shot, list[Area]]:
    from wanflow.assemble import ffmpeg, graph

    clip, seconds = scene.clip(output.aspect), scene.seconds(output.aspect)
    work.mkdir(parents=True)
    layers, covered = _layers(scene.layers, seconds, output, sources, work)
    link, repeats = _link(master, work / "master"), 0
    boomerang = scene.voice is not None and scene.voice.extend == "boomerang"
    if boomerang and seconds > clip.seconds and clip.num_frames > 2:
        round_trip = 2 * clip.num_frames - 2
        there = work / "there-and-back.mkv"
        arguments = graph.back_and_forth(link, clip.num_frames, there)
        ffmpeg.run(arguments, timeout_s=timeout_s(round_trip / clip.fps))
        link, repeats = there, math.ceil(seconds * clip.fps / round_trip)
    return graph.Shot(link, seconds, clip.fps, layers, repeats), covered


def _link(path: Path, link: Path) -> Path:
    """``link`` to ``path``: scenes may share a clip or a voice, and the graph wants a path for each."""
    link.symlink_to(path.absolute())
    return link


def _mix(
    variant: Variant,
    shots: tuple[graph.Shot, ...],
    output: Output,
    sources: Mapping[str, Path],
    work: Path,
) -> sound.Mix:
    """The voices where their scenes are, and the music, each with the gain that it needs."""
    from wanflow.assemble import loudness, sound

    begin_s = 0.0
    speeches = []
    for i, (scene, shot) in enumerate(zip(variant.scenes, shots, strict=True)):
        end_s = begin_s + output.frames(shot.seconds) / output.fps
        if voice := scene.voice:
            path, demuxer = _sound(voice.source, sources)
            gain_db = loudness.gain_db(path, demuxer, variant.loudness, 0.0, voice.seconds) + voice.volume_db
            start_s = begin_s + voice.start_s
            stop_s = min(end_s, start_s + voice.seconds)
            link = _link(path, work / f"voice-{i}")
            speeches.append(sound.Speech(link, demuxer, start_s, stop_s, gain_db))
        begin_s = end_s
    bed = None
    if music := variant.music:
        path, demuxer = _sound(music.source, sources)
        heard_s = min(begin_s, music.seconds - music.skip_s)
        bed = sound.Bed(
            _link(path, work / "music"),
            demuxer,
            loudness.gain_db(path, demuxer, variant.loudness, music.skip_s, heard_s) + music.volume_db,
            music.duck_db,
            music.skip_s,
            heard_s < begin_s,
            music.fade_in_s,
            music.fade_out_s,
        )
    return sound.Mix(begin_s, tuple(speeches), bed)


def _sound(source: Source, sources: Mapping[str, Path]) -> tuple[Path, str]:
    """A sound file, and ffmpeg's name of its format."""
    path = sources.get(source.digest)
    if path is None or not path.is_file():
        raise AssembleError(f"the sound {Path(source.url).name} is not here; check its URL and rights")
    with path.open("rb") as file:
        return path, audio.demuxer(file)


def _layers(
    layers: tuple[Layer, ...], seconds: float, output: Output, sources: Mapping[str, Path], work: Path
) -> tuple[tuple[graph.Picture | graph.Words, ...], list[Area]]:
    """Pictures scaled and words scripted into ``work``, and where they lie; text and boxes that lie next to each other
    share a script.
    """
    from PIL import Image

    from wanflow.assemble import ass, fonts, graph, images, text
    from wanflow.assemble.layout import Area

    width, height = output.width, output.height
    blocks = text.lay_out(layers, sources, width, height, seconds)
    covered = [Area(b.x, b.y, b.x + b.width, b.y + b.height) for each in blocks.values() for b in each]
    ready: list[graph.Picture | graph.Words] = []
    waiting: list[text.Block] = []

    def flush() -> None:
        if not waiting:
            return
        script, folder = work / f"{len(ready)}.ass", work / f"{len(ready)}-fonts"
        script.write_text(ass.script(waiting, width, height, seconds), encoding="utf-8")
        folder.mkdir()
        needed = {fonts.base_font().path} | {font.path for block in waiting for font in block.fonts()}
        for i, path in enumerate(sorted(needed)):
            shutil.copyfile(path, folder / f"{i}{path.suffix}")
        ready.append(graph.Words(script, folder))
        waiting.clear()

    for i, layer in enumerate(layers):
        if not isinstance(layer, ImageLayer):
            waiting.extend(blocks[i])
            continue
        flush()
        source = sources.get(layer.image.digest)
        if source is None or not source.is_file():
            raise AssembleError(
                f"the image {Path(layer.image.url).name} is not here; check its URL and rights"
            )
        target, place = work / f"{len(ready)}.png", layer.place
        x, y = images.prepare(layer, source, target, width, height)
        ready.append(graph.Picture(target, x, y, place.start_s, place.end_s, place.fade_s))
        with Image.open(target) as picture:
            covered.append(Area(x, y, x + picture.width, y + picture.height))
    flush()
    return tuple(ready), covered
