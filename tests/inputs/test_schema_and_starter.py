"""The schemas that ``wanflow schema`` prints, and the starter that ``wanflow init`` writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ruamel.yaml import YAML

from tests.inputs.conftest import ENGINES, job_dict
from tests.inputs.test_job import DESIGN
from wanflow.errors import UsageError
from wanflow.inputs import Inputs
from wanflow.job import job_schema, load_job
from wanflow.manifest import COLUMNS, manifest_schema, read_variants
from wanflow.model import ImageLayer, TextLayer, Variant
from wanflow.starter import write_starter

REPOSITORY = Path(__file__).parents[2]


def objects(node: Any) -> list[dict[str, Any]]:
    """Every mapping with properties inside a schema."""
    if isinstance(node, dict):
        found = [node] if isinstance(node.get("properties"), dict) else []
        return found + [inner for value in node.values() for inner in objects(value)]
    return [inner for value in node for inner in objects(value)] if isinstance(node, list) else []


@pytest.mark.parametrize("schema", [job_schema(), manifest_schema()], ids=["job", "manifest"])
def test_schemas_are_valid_and_every_field_is_described(schema: dict[str, Any]) -> None:
    """An editor shows the description beside the key; that is most people's manual."""
    jsonschema.Draft202012Validator.check_schema(schema)
    for node in objects(schema):
        for name, field in node["properties"].items():
            inherited = "$ref" in field
            assert field.get("description") or inherited, f"{node.get('title')}.{name} has no description"


def test_the_schema_takes_what_the_loader_takes(tmp_path: Path) -> None:
    """Where the two disagree, an editor paints a good job red."""
    validator = jsonschema.Draft202012Validator(job_schema())
    files = [*write_starter(tmp_path / "s")[:1], *sorted((REPOSITORY / "jobs").glob("*.yaml"))]
    texts = [DESIGN, *(path.read_text(encoding="utf-8") for path in files)]
    for text in texts:
        data = YAML(typ="safe", pure=True).load(text)
        assert [e.message for e in validator.iter_errors(data)] == []
    short = job_dict(
        cascade=["refine"],
        resources={"replicas": 2},
        clip={"aspect": "1x1", "seed": "{{ n }}", "size": "32x32"},
    )
    assert [e.message for e in validator.iter_errors(short)] == []


def test_the_schema_refuses_unknown_keys() -> None:
    """A misspelt key is red while it is typed."""
    validator = jsonschema.Draft202012Validator(job_schema())
    assert list(validator.iter_errors(job_dict(clip={"promt": "x"})))
    assert list(validator.iter_errors(job_dict(group={"by": "x"})))


def test_the_manifest_schema_knows_every_column() -> None:
    """Column names are a contract with the warehouse."""
    schema = manifest_schema()
    assert list(schema["properties"]) == list(COLUMNS) == [
        "variant_id", "prompt", "image", "last_image", "video",
        "negative_prompt", "seed", "aspect", "seconds", "priority",
    ]  # fmt: skip
    validator = jsonschema.Draft202012Validator(schema)
    assert validator.is_valid({"variant_id": 7, "prompt": None, "aspect": ["9x16"], "headline": "x"})
    assert not validator.is_valid({"variant_id": "a", "seed": -1})
    assert not validator.is_valid({"prompt": "a"})


def test_the_starter_is_a_job_whose_every_row_is_good(tmp_path: Path) -> None:
    """``init`` then ``run`` is the first minute with wanflow; it may not end in an error."""
    files = write_starter(tmp_path / "new" / "place")
    assert [path.name for path in files[:2]] == ["job.yaml", "variants.csv"]
    assert all(path.stat().st_size for path in files)
    job = load_job(files[0], env={})
    assert job.engine.checkpoint.t2v == "pocket"
    variants = list(read_variants(job, ENGINES, Inputs(job.directory)))
    assert [v for v in variants if not isinstance(v, Variant)] == []
    found = [v for v in variants if isinstance(v, Variant)]
    assert len({clip for v in found for _, clip in v.scenes[0].clips}) < sum(len(v.outputs) for v in found)
    assert {type(layer) for v in found for layer in v.scenes[0].layers} >= {ImageLayer, TextLayer}


def test_the_starter_overwrites_nothing(tmp_path: Path) -> None:
    """``init`` in the wrong directory must not cost anybody a job file."""
    (tmp_path / "variants.csv").write_text("mine")
    with pytest.raises(UsageError, match=r"variants\.csv: already there"):
        write_starter(tmp_path)
    assert (tmp_path / "variants.csv").read_text() == "mine"
    assert not (tmp_path / "job.yaml").exists()


def test_a_directory_that_cannot_be_made_is_a_usage_error(tmp_path: Path) -> None:
    """``init`` into a file."""
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be written"):
        write_starter(tmp_path / "file" / "below")
