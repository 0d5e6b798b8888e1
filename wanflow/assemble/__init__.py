"""Assembly: masters, layers and an output's preset become a finished file and its poster, in one ffmpeg run.

:func:`assemble` is the whole interface. It prepares pictures and words in a work directory of its own, builds the graph
(``graph.py``, pure) and runs it (``ffmpeg.py``). The same inputs give the same bytes. Raise ``keys.VERSIONS["output"]``
when the same job would look otherwise (graph, styles, packaged fonts).

Knows nothing of keys, stores, Ray or engines. Limits: H.264, no sound yet, hard cuts between scenes.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wanflow.errors import AssembleError
from wanflow.model import ImageLayer, Layer, Output, OutputFile, Scene, Variant

if TYPE_CHECKING:
    from wanflow.assemble import graph
    from wanflow.assemble.layout import Area

#: An assembly that takes longer than this times the video's length (at 1080p) is stuck.
_TIMEOUT_BASE_S = 120.0
_TIMEOUT_PER_SECOND = 120.0


@dataclass(frozen=True, slots=True)
class Finished:
    """What an assembly made."""

    #: ``video`` and, if wanted, ``poster``
    files: dict[str, Path]
    #: the parts of the picture that a layer lies over, at whatever time and however transparent
    covered: tuple[Area, ...]


def assemble(
    variant: Variant,
    file: OutputFile,
    masters: Mapping[str, Path],
    sources: Mapping[str, Path],
    out_dir: Path,
) -> Finished:
    """Makes one file of ``variant`` in ``out_dir``, and its poster if wanted.

    ``masters`` maps the keys in ``file.masters`` to local files, ``sources`` digests of images and fonts. Raises
    :class:`AssembleError`, whose message names the variant and the output.
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
        arguments = graph.build(shots, output, video, poster if output.poster else None)
        seconds = sum(shot.seconds for shot in shots)
        said = ffmpeg.run(arguments, timeout_s=_TIMEOUT_BASE_S + _TIMEOUT_PER_SECOND * seconds)
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
    return Finished(files, tuple(area for _, covered in prepared for area in covered))


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
    from wanflow.assemble import graph

    clip = scene.clip(output.aspect)
    work.mkdir(parents=True)
    layers, covered = _layers(scene.layers, clip.seconds, output, sources, work)
    link = work / "master"
    link.symlink_to(master.absolute())  # two scenes may show the same clip; the graph wants a path for each
    return graph.Shot(link, clip.seconds, clip.fps, layers), covered


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
