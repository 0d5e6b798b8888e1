"""The values that every part of wanflow exchanges: frozen, hashable, picklable, standard library only.

A manifest row, or a group of rows, becomes a :class:`Variant`: an ordered list of :class:`Scene`, one a row, each with
one :class:`Clip` for every aspect that its outputs need. Clips that are equal share a key and are rendered once. The
words are those of the README's glossary; units are in the names (``_s`` seconds, ``_bytes``); sizes are pixels, width
before height.

``engine`` has what a checkpoint can do, ``clip`` what is generated, ``video`` what is finished, ``task`` what is to be
done and how it ended. All of them are imported from here. They know nothing of files, processes, models or time.
"""

from __future__ import annotations

from wanflow.model.clip import (
    Branch,
    CascadeStep,
    Clip,
    Lora,
    Source,
    SourceVideo,
)
from wanflow.model.engine import (
    LATER,
    EngineSpec,
    LastImage,
    Loading,
    Mode,
    Sampling,
    Scalar,
    Shortcuts,
)
from wanflow.model.task import (
    AssembleVariant,
    Attempt,
    Cause,
    OutputFile,
    Record,
    RenderClip,
    Stage,
    Status,
    StoredFile,
)
from wanflow.model.video import (
    DEFAULT_LOUDNESS,
    BoxLayer,
    CaptionsLayer,
    Cue,
    ImageLayer,
    Layer,
    Music,
    Output,
    Placement,
    Scene,
    TextLayer,
    Variant,
    Voice,
)

__all__ = [
    "DEFAULT_LOUDNESS",
    "LATER",
    "AssembleVariant",
    "Attempt",
    "BoxLayer",
    "Branch",
    "CaptionsLayer",
    "CascadeStep",
    "Cause",
    "Clip",
    "Cue",
    "EngineSpec",
    "ImageLayer",
    "LastImage",
    "Layer",
    "Loading",
    "Lora",
    "Mode",
    "Music",
    "Output",
    "OutputFile",
    "Placement",
    "Record",
    "RenderClip",
    "Sampling",
    "Scalar",
    "Scene",
    "Shortcuts",
    "Source",
    "SourceVideo",
    "Stage",
    "Status",
    "StoredFile",
    "TextLayer",
    "Variant",
    "Voice",
]
