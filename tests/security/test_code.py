"""Nothing that is read can run: no pickle, no unsafe YAML, no code in a checkpoint. And every attack is in the docs."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

from tests.checkpoints import make
from tests.security.attacks import Target
from wanflow.errors import EngineError

ROOT = Path(__file__).parents[2]


def calls(path: Path) -> list[tuple[int, str, str]]:
    """(line, what is called, its arguments) of every call and import."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            found.append((node.lineno, ast.unparse(node.func), ast.unparse(node)))
        elif isinstance(node, ast.Import):
            found += [(node.lineno, f"import {alias.name}", "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.lineno, f"import {node.module}", ""))
    return found


def test_no_reader_can_run_what_it_reads() -> None:
    """Pickles, eval, YAML's object tags and remote code: none of them is in the package."""
    forbidden = re.compile(
        r"(import )?(pickle|cPickle|dill|cloudpickle|shelve|marshal|joblib)(\..*)?|eval|exec|yaml\.(unsafe_)?load"
        r"|(np|numpy)\.load|torch\.load|.*\.read_pickle"
    )
    broken = []
    for path in sorted((ROOT / "wanflow").rglob("*.py")):
        for line, name, text in calls(path):
            own_recipe = "pocket" in path.parts and name == "torch.load" and "weights_only=True" in text
            own_yaml = (
                path.name == "text.py" and name == "yaml.load"
            )  # a safe constructor of our own, see its tests
            if forbidden.fullmatch(name) and not own_recipe and not own_yaml:
                broken.append(f"{path.relative_to(ROOT)}:{line} {name}")
            if "trust_remote_code" in text or "allow_pickle" in text:
                broken.append(f"{path.relative_to(ROOT)}:{line} {text[:60]}")
    assert broken == []


@pytest.mark.parametrize("ending", [".bin", ".pt", ".pth", ".ckpt"])
def test_a_checkpoint_of_pickles_is_refused_in_one_error(target: Target, tmp_path: Path, ending: str) -> None:
    """A pickle runs code when it is read; so it is not."""
    folder = make("pocket", tmp_path / "evil")
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(ending))
    target.sections["engine"]["checkpoint"] = str(folder)
    with pytest.raises(EngineError, match=r"are a pickle .* safetensors only: convert them"):
        target.plan()


@pytest.mark.parametrize(
    "shard", ["weights.bin", "../../../etc/passwd", "/etc/passwd", "a/b.safetensors", 7, "..safetensors"]
)
def test_an_index_that_names_another_format_or_place_is_refused(
    target: Target, tmp_path: Path, shard: object
) -> None:
    folder = make("pocket", tmp_path / "evil") / "transformer"
    (folder / "diffusion_pytorch_model.safetensors").rename(folder / "weights.bin")
    index = {"weight_map": {"a": shard}}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    target.sections["engine"]["checkpoint"] = str(folder.parent)
    with pytest.raises(EngineError, match="no safetensors file beside it"):
        target.plan()


def test_every_attack_in_the_docs_has_its_test_and_every_test_is_in_the_docs() -> None:
    """docs/security.md is a table of attacks; the last column is the proof."""
    there = {
        f"{path.name}::{node.name}"
        for folder in ("security", "fuzz")
        for path in (ROOT / "tests" / folder).glob("test_*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }
    told = set(re.findall(r"`(test_\w+\.py::test_\w+)`", (ROOT / "docs" / "security.md").read_text()))
    assert told - there == set()
    assert there - told == {
        "test_code.py::" + "test_every_attack_in_the_docs_has_its_test_and_every_test_is_in_the_docs"
    }
