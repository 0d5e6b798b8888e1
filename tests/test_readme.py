"""The README against the code: its job loads, its tables list what there is, no more and no less."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import wanflow
from wanflow.job import Job
from wanflow.job.text import parse_yaml
from wanflow.manifest import manifest_schema
from wanflow.model import Status
from wanflow.report.results import schema as results_schema

README = (Path(__file__).parents[1] / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def table(head: str) -> list[str]:
    """First cells of the rows of the table whose head begins with ``head``."""
    lines = README.split(f"\n| {head} |", 1)[1].split("\n\n", 1)[0].splitlines()[2:]
    return [line.split("|")[1].strip().strip("`") for line in lines]


def test_the_job_in_the_readme_loads() -> None:
    """It will be copied before anything else is read."""
    (text,) = blocks("yaml")
    job = Job.from_dict(parse_yaml(text, "README.md"))
    assert job.name == "spring-sale"


def test_the_python_in_the_readme_uses_what_there_is() -> None:
    (text,) = blocks("python")
    names = set(re.findall(r"from wanflow import (.*)", text)[0].split(", "))
    assert names <= set(wanflow.__all__)
    compile(text, "README.md", "exec")
    assert callable(Job.load)


def test_every_verb_has_a_line() -> None:
    helped = subprocess.run(
        [sys.executable, "-m", "wanflow.cli", "--help"], capture_output=True, text=True, check=True
    )
    verbs = re.findall(r"^    (\w+) ", helped.stdout, re.MULTILINE)
    assert {cell.split()[1] for cell in table("command")} == set(verbs)


def test_every_exit_code_has_a_line() -> None:
    assert table("exit code") == ["0", "1", "2", "3", "4", "5"]


def test_every_column_of_the_manifest_has_a_line() -> None:
    assert set(table("column")) - {"any other"} == set(manifest_schema()["properties"])


def test_every_status_has_a_line() -> None:
    assert set(table("status")) == {status.value for status in Status}


def test_every_column_of_the_results_is_named() -> None:
    assert [name for name in results_schema().names if f"`{name}`" not in README] == []
