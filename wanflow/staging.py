"""Inputs from this machine's disk and from web servers go into the workspace once, by hash.

So replicas on other nodes can read the former, and none of them connects to a host that a row has named. Inputs in
object stores stay where they are: every node reads them itself and checks the digest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from wanflow.allowed import Allowed
from wanflow.errors import Conflict, InputError
from wanflow.inputs import MAX_LORA_BYTES, Reader, same_bytes
from wanflow.model import (
    AssembleVariant,
    CaptionsLayer,
    Clip,
    ImageLayer,
    Layer,
    RenderClip,
    Scene,
    Source,
    TextLayer,
    Variant,
)
from wanflow.records import in_parallel
from wanflow.storage import Store, is_local, is_web, join

#: uploads at once, each whole in memory; of LoRAs, which may have gigabytes, one
NUM_THREADS = 8


@dataclass(frozen=True, slots=True)
class Staged:
    """Tasks by key, their sources where every node can read them."""

    renders: Mapping[str, RenderClip]
    assemblies: Mapping[str, AssembleVariant]
    #: inputs that could be read while planning and cannot be read any more, or are others now, and why
    refused: Mapping[Source, str]


def stage_inputs(
    workspace: Store,
    renders: Iterable[RenderClip],
    assemblies: Iterable[AssembleVariant],
    allowed: Allowed | None = None,
) -> Staged:
    """Upload what is local or on the web to ``inputs/<digest>``, and point the tasks there.

    ``allowed`` is the job's: what was replaced by a link since planning is not followed. Raises StoreError when the
    workspace cannot be written.
    """
    renders = list(renders)
    local: dict[Source, None] = {}

    def moved(source: Source) -> Source:
        if not (is_local(source.url) or is_web(source.url)):
            return source
        local[source] = None
        return Source(join(workspace.url, _path(source)), source.digest)

    staged_renders = {task.key: replace(task, clip=_clip(task.clip, moved)) for task in renders}
    staged_assemblies = {
        task.key: replace(task, variant=_variant(task.variant, moved)) for task in assemblies
    }
    loras = {lora.source for task in renders for lora in task.clip.loras}.intersection(local)
    reader = Reader(allowed)

    def upload(source: Source) -> str | None:
        return _upload(workspace, source, reader)

    small = [source for source in local if source not in loras]
    whys = dict(zip(small, in_parallel(upload, small, NUM_THREADS), strict=True))
    whys |= {source: upload(source) for source in loras}
    return Staged(staged_renders, staged_assemblies, {source: why for source, why in whys.items() if why})


def _path(source: Source) -> str:
    return f"inputs/{source.digest}"


def _upload(workspace: Store, source: Source, reader: Reader) -> str | None:
    """Bring ``source`` there unless it is; why it cannot be read."""
    if workspace.stat(_path(source)) is not None:
        return None
    try:
        # the limit of its kind was looked at while planning; these are the same bytes
        data = same_bytes(source, reader.read(source.url, MAX_LORA_BYTES))
    except InputError as error:
        return str(error)
    with suppress(Conflict):  # another run uploaded the same bytes
        workspace.create(_path(source), data)
    return None


def _clip(clip: Clip, moved: Callable[[Source], Source]) -> Clip:
    if not clip.sources:
        return clip
    return replace(
        clip,
        image=moved(clip.image) if clip.image else None,
        last_image=moved(clip.last_image) if clip.last_image else None,
        loras=tuple(replace(each, source=moved(each.source)) for each in clip.loras),
        video=replace(clip.video, source=moved(clip.video.source)) if clip.video else None,
    )


def _variant(variant: Variant, moved: Callable[[Source], Source]) -> Variant:
    def scene(old: Scene) -> Scene:
        voice = replace(old.voice, source=moved(old.voice.source)) if old.voice else None
        return replace(old, layers=tuple(_layer(layer, moved) for layer in old.layers), voice=voice)

    music = replace(variant.music, source=moved(variant.music.source)) if variant.music else None
    return replace(variant, scenes=tuple(map(scene, variant.scenes)), music=music)


def _layer(layer: Layer, moved: Callable[[Source], Source]) -> Layer:
    if isinstance(layer, ImageLayer):
        return replace(layer, image=moved(layer.image))
    if isinstance(layer, TextLayer | CaptionsLayer) and layer.font:
        return replace(layer, font=moved(layer.font))
    return layer
