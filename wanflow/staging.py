"""Inputs from this machine's disk and from web servers go into the workspace once, by hash.

So replicas on other nodes can read the former, and none of them connects to a host that a row has named. Inputs in
object stores stay where they are: every node reads them itself and checks the digest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from wanflow.allowed import Allowed
from wanflow.errors import Conflict
from wanflow.inputs import MAX_LORA_BYTES, read_source
from wanflow.model import (
    AssembleVariant,
    Clip,
    ImageLayer,
    Layer,
    RenderClip,
    Scene,
    Source,
    TextLayer,
    Variant,
)
from wanflow.storage import Store, is_local, is_web, join

#: uploads at once, each whole in memory; of LoRAs, which may have gigabytes, one
NUM_THREADS = 8


def stage_inputs(
    workspace: Store,
    renders: Iterable[RenderClip],
    assemblies: Iterable[AssembleVariant],
    allowed: Allowed | None = None,
) -> tuple[dict[str, RenderClip], dict[str, AssembleVariant]]:
    """Upload what is local or on the web to ``inputs/<digest>``; return the tasks by key, their sources pointing there.

    ``allowed`` is the job's: what was replaced by a link since planning is not followed. Raises InputError when a
    file changed since planning, StoreError when the workspace cannot be written.
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
    loras = {lora.source for task in renders for lora in task.clip.loras}
    with ThreadPoolExecutor(NUM_THREADS) as threads:
        list(
            threads.map(
                lambda source: _upload(workspace, source, allowed),
                [each for each in local if each not in loras],
            )
        )
    for source in loras.intersection(local):
        _upload(workspace, source, allowed)
    return staged_renders, staged_assemblies


def _path(source: Source) -> str:
    return f"inputs/{source.digest}"


def _upload(workspace: Store, source: Source, allowed: Allowed | None) -> None:
    if workspace.stat(_path(source)) is None:
        try:
            # the limit of its kind was looked at while planning; these are the same bytes
            workspace.create(_path(source), read_source(source, max_bytes=MAX_LORA_BYTES, allowed=allowed))
        except Conflict:
            return  # another run uploaded the same bytes


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
        return replace(old, layers=tuple(_layer(layer, moved) for layer in old.layers))

    return replace(variant, scenes=tuple(map(scene, variant.scenes)))


def _layer(layer: Layer, moved: Callable[[Source], Source]) -> Layer:
    if isinstance(layer, ImageLayer):
        return replace(layer, image=moved(layer.image))
    if isinstance(layer, TextLayer) and layer.font:
        return replace(layer, font=moved(layer.font))
    return layer
