"""``plan.parquet``: a plan as rows in the run directory, and back as far as a later plan compares with it.

A row a variant, a row a clip that they need, a row a retired video. ``detail`` describes in JSON what decides the
result: of a clip its fields, of a variant that is made its layers, sound and files. Files that stay as they are stand
in ``kept``, each with the run that published it. The file's metadata has the versions of wanflow and of its stages.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from wanflow.keys import VERSIONS
from wanflow.model import Clip, Layer, Output, Source, Status, Variant
from wanflow.planning.plan import Plan, PlannedVariant
from wanflow.storage import redact

if TYPE_CHECKING:
    import pyarrow as pa

_METADATA = b"wanflow"


@dataclass(frozen=True, slots=True)
class FormerFile:
    """A file as a plan described it."""

    key: str
    output: Mapping[str, Any]
    #: of each scene
    layers: list[list[Mapping[str, Any]]]
    #: key of the master and description of the clip, of each scene
    masters: list[str]
    clips: list[Mapping[str, Any] | None]
    #: what is heard
    sound: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class FormerPlan:
    """What ``plan.parquet`` of an earlier run says."""

    #: path of each file that it made
    files: Mapping[str, FormerFile] = field(default_factory=dict)
    #: version of each stage then
    versions: Mapping[str, int] = field(default_factory=dict)
    wanflow: str = ""


def plan_table(plan: Plan) -> pa.Table:
    """``plan`` as the table of ``plan.parquet``."""
    import pyarrow as pa

    from wanflow import __version__

    schema = pa.schema(
        [
            ("kind", pa.string()),
            ("id", pa.string()),
            ("row", pa.int64()),
            ("status", pa.string()),
            ("reason", pa.string()),
            ("files", pa.int64()),
            ("prompt", pa.string()),
            ("kept", pa.map_(pa.string(), pa.string())),
            ("detail", pa.string()),
        ]
    )
    facts = {"wanflow": __version__, "versions": dict(VERSIONS)}
    unchanged = plan.unchanged
    records, bounds = unchanged.records()
    paths, runs = (
        plan.published.records.table[name].cast(pa.string()).take(pa.array(records, pa.int64()))
        for name in ("path", "run_id")
    )
    kept = pa.MapArray.from_arrays(
        pa.array(bounds, pa.int32()), paths.combine_chunks(), runs.fill_null("").combine_chunks()
    )
    columns: dict[str, pa.Array] = {
        "id": pa.array(unchanged.variant_ids, pa.string()),
        "row": pa.array(unchanged.rows, pa.int64()),
        "kept": kept,
    }
    constant = {"kind": "variant", "status": Status.UNCHANGED.value, "reason": "", "files": 0}
    for each in schema:
        if each.name not in columns:
            value = pa.scalar(constant.get(each.name), each.type)
            columns[each.name] = pa.repeat(value, len(unchanged))
    table = pa.concat_tables(
        [
            pa.Table.from_pylist(list(_rows(plan)), schema=schema),
            pa.table([columns[name] for name in schema.names], schema=schema),
        ]
    )
    return table.replace_schema_metadata({_METADATA: json.dumps(facts).encode()})


def former_plan(table: pa.Table | None) -> FormerPlan:
    """A table of :func:`plan_table` as far as it can be read; None is an empty plan."""
    if table is None or "detail" not in table.column_names:
        return FormerPlan()
    facts = json.loads((table.schema.metadata or {}).get(_METADATA, b"{}"))
    clips: dict[str, Mapping[str, Any]] = {}
    details: list[Mapping[str, Any]] = []
    described = table.select(["kind", "id", "detail"]).filter(table["detail"].is_valid())
    for row in described.to_pylist():
        if row["kind"] == "clip":
            clips[row["id"]] = json.loads(row["detail"])
        else:
            details.append(json.loads(row["detail"]))
    files = {
        path: FormerFile(
            file["key"],
            file["output"],
            detail["layers"],
            file["masters"],
            [clips.get(key) for key in file["masters"]],
            detail.get("sound", {}),
        )
        for detail in details
        for path, file in detail["files"].items()
    }
    return FormerPlan(files, facts.get("versions", {}), facts.get("wanflow", ""))


def asked_of(table: pa.Table) -> Iterator[tuple[str, dict[str, str]]]:
    """Of each variant in a table of :func:`plan_table` its id, and of each of its files the run that had published it
    before; empty: that run was to make it.

    Where they are not told (it failed before, or was unchanged and an earlier wanflow wrote the plan) the id stands in
    for their paths.
    """
    is_variant = [kind == "variant" for kind in table["kind"].to_pylist()]
    names = [name for name in ("id", "detail", "kept", "made_by") if name in table.column_names]
    for row in table.select(names).filter(is_variant).to_pylist():
        detail = json.loads(row.get("detail") or "{}")
        files = dict.fromkeys(detail.get("files", ()), "") | dict(row.get("kept") or ())
        yield row["id"], files or {row["id"]: row.get("made_by") or ""}


def describe_clip(clip: Clip) -> dict[str, Any]:
    """What decides a clip's pixels, JSON-ready."""
    return {
        "mode": clip.mode.value,
        "prompt": clip.prompt,
        "negative_prompt": clip.negative_prompt,
        "image": _plain(clip.image),
        **({"last_image": _plain(clip.last_image)} if clip.last_image else {}),
        **({"video": _plain(clip.video)} if clip.video else {}),
        "seed": clip.seed,
        "size": f"{clip.width}x{clip.height}",
        "num_frames": clip.num_frames,
        "fps": clip.fps,
        "weights": clip.weights,
        "sampling": _plain(clip.sampling),
        "cascade": [{"method": step.method, **dict(step.params)} for step in clip.cascade],
        **({"branch": _plain(clip.branch)} if clip.branch else {}),
        **({"loras": [_plain(lora) for lora in clip.loras]} if clip.loras else {}),
    }


def describe_layer(layer: Layer) -> dict[str, Any]:
    return {"layer": type(layer).__name__.removesuffix("Layer").lower(), **_plain(layer)}


def describe_sound(variant: Variant) -> dict[str, Any]:
    """What is heard, JSON-ready; nothing where that is nothing."""
    if not variant.has_sound:
        return {}
    return {
        "voices": [_plain(scene.voice) for scene in variant.scenes],
        "music": _plain(variant.music),
        "loudness": variant.loudness,
    }


def describe_output(output: Output) -> dict[str, Any]:
    described: dict[str, Any] = _plain(output)
    return described


def _rows(plan: Plan) -> Iterator[dict[str, object]]:
    for planned in plan.variants:
        variant = planned.variant
        yield {
            "kind": "variant",
            "id": variant.variant_id,
            "row": variant.row,
            "status": planned.status.value,
            "reason": planned.reason,
            "files": len(planned.files),
            "kept": list(_kept(plan, planned)),
            "detail": json.dumps(_detail(planned), ensure_ascii=False) if planned.files else None,
        }
    for clip in plan.clips:
        yield {
            "kind": "clip",
            "id": clip.task.key,
            "status": clip.decision.value,
            "reason": clip.reason,
            "files": clip.num_variants,
            "prompt": clip.task.clip.prompt,
            "detail": json.dumps(describe_clip(clip.task.clip), ensure_ascii=False),
        }
    for retired in plan.retired:
        yield {
            "kind": "retired",
            "id": retired.variant_id,
            "status": "unpublish" if plan.unpublish else "retired",
            "reason": f"{retired.path} is no longer asked for",
            "files": 1,
        }


def _kept(plan: Plan, planned: PlannedVariant) -> Iterator[tuple[str, str]]:
    """(path, run that published it) of each file that is asked for as it is."""
    to_make = {file.path for file in planned.files}
    for _, path in planned.variant.outputs if planned.status is not Status.FAILED else ():
        if path not in to_make:
            yield path, str(dict(plan.published.records[path].info).get("run_id", ""))


def _detail(planned: PlannedVariant) -> dict[str, Any]:
    return {
        "layers": [[describe_layer(layer) for layer in scene.layers] for scene in planned.variant.scenes],
        **({"sound": describe_sound(planned.variant)} if planned.variant.has_sound else {}),
        "files": {
            file.path: {
                "key": file.key,
                "output": describe_output(file.output),
                "masters": list(file.masters),
            }
            for file in planned.files
        },
    }


def _plain(value: Any) -> Any:
    """A frozen value as JSON-ready ones; what is None is left out, and what came later and has its default."""
    if isinstance(value, Source):
        return {"url": redact(value.url), "digest": value.digest}
    if hasattr(value, "__dataclass_fields__"):
        named = ((each, getattr(value, each.name)) for each in fields(value))
        return {
            each.name: _plain(found)
            for each, found in named
            if found is not None and not (each.metadata.get("later") and found == each.default)
        }
    return [_plain(each) for each in value] if isinstance(value, tuple) else value
