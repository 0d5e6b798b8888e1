"""``plan.parquet``: a plan as rows in the run directory, and back as far as a later plan compares with it.

A row a variant, a row a clip that they need, a row a retired video. ``detail`` describes in JSON what decides the
result: of a clip its fields, of a variant that is made its layers, sound and files. A variant that was unchanged has
the run that published it in ``made_by`` instead. The file's metadata has the versions of wanflow and of its stages.
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
            ("made_by", pa.string()),
            ("detail", pa.string()),
        ]
    )
    facts = {"wanflow": __version__, "versions": dict(VERSIONS)}
    unchanged = plan.unchanged
    made_by = (
        plan.published.records.table["run_id"].cast(pa.string()).take(pa.array(unchanged.first_records()))
    )
    columns: dict[str, pa.Array] = {
        "id": pa.array(unchanged.variant_ids, pa.string()),
        "row": pa.array(unchanged.rows, pa.int64()),
        "made_by": made_by.fill_null(""),
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


def makers_of(table: pa.Table) -> dict[str, str]:
    """Of a table of :func:`plan_table`: variant id -> the run that had published it before, where it was unchanged."""
    if "made_by" not in table.column_names:
        return {}
    found = zip(table["id"].to_pylist(), table["made_by"].to_pylist(), strict=True)
    return {name: made_by for name, made_by in found if made_by}


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
