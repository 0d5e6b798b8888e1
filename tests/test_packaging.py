"""What is shipped: the wheel's contents, the versions, and the commands that set a fresh machine up."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import wanflow

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REQUIREMENTS = {
    **{Requirement(text).name: Requirement(text) for text in PROJECT["dependencies"]},
    **{
        Requirement(text).name: Requirement(text)
        for extra in ("s3", "dev")
        for text in PROJECT["optional-dependencies"][extra]
    },
}


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pairs}


@pytest.mark.parametrize("name", REQUIREMENTS)
def test_constraints_pin_every_requirement_inside_its_range(name: str) -> None:
    """A range that leaves out the version we test with would be a lie in one of two places."""
    pinned = constraints().get(re.sub(r"[-_.]+", "-", name).lower())
    assert pinned is not None, f"{name} is missing in constraints.txt: make constraints"
    assert REQUIREMENTS[name].specifier.contains(pinned, prereleases=True)


@pytest.mark.parametrize("name", REQUIREMENTS)
def test_installed_versions_lie_inside_the_ranges(name: str) -> None:
    assert REQUIREMENTS[name].specifier.contains(
        Version(importlib.metadata.version(name)).public, prereleases=True
    )


def test_torch_is_capped() -> None:
    """Without a cap pip answers with the newest CUDA build: several GB for a demo on a laptop."""
    assert any(specifier.operator == "<" for specifier in REQUIREMENTS["torch"].specifier)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # from a copy: the build must not depend on what else lies in the working tree, nor leave anything in it
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(ROOT / name, source / name)
    shutil.copytree(ROOT / "wanflow", source / "wanflow", ignore=shutil.ignore_patterns("__pycache__"))
    target = tmp_path_factory.mktemp("wheel")
    build = "import sys, hatchling.build; print(hatchling.build.build_wheel(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", build, str(target)], cwd=source, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return target / done.stdout.strip().splitlines()[-1]


def test_wheel_holds_all_that_the_package_reads_at_run_time(wheel: Path) -> None:
    """Installed from a wheel, ``checkpoint: pocket`` and the first headline must work without the repository."""
    names = set(zipfile.ZipFile(wheel).namelist())
    here = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "wanflow").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert here - names == set()
    assert "wanflow/py.typed" in names
    assert any(
        name.startswith("wanflow/pocket/checkpoint/") and name.endswith(".safetensors") for name in names
    )
    assert {name.split("/")[0] for name in names} == {"wanflow", f"wanflow-{wanflow.__version__}.dist-info"}


def test_wheel_says_the_same_as_the_package(wheel: Path) -> None:
    files = zipfile.ZipFile(wheel)
    info = f"wanflow-{wanflow.__version__}.dist-info"
    assert "wanflow = wanflow.cli:main" in files.read(f"{info}/entry_points.txt").decode()
    metadata = files.read(f"{info}/METADATA").decode()
    assert f"\nVersion: {wanflow.__version__}\n" in metadata
    assert "\nLicense-Expression: Apache-2.0\n" in metadata


def test_version_is_the_same_everywhere() -> None:
    """The changelog's newest entry and the image's tag move with the package."""
    newest = re.search(r"^## \[?(\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert newest.group(1) == wanflow.__version__
    assert f"wanflow:{wanflow.__version__}-ray" in (ROOT / "cluster" / "rayjob.yaml").read_text()


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder / name)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(
        ["make", *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("python", ["", "/nowhere/python3", "false"])
def test_make_without_a_usable_python_says_so_in_one_line(tmp_path: Path, python: str) -> None:
    """The first minute with wanflow must not be a stack trace of pip's."""
    done = make(tmp_path, "demo", f"PYTHON={python}")
    assert done.returncode == 2
    ours = [line for line in done.stderr.splitlines() if not line.startswith("make:")]
    assert len([line for line in ours if "needs Python 3.11 or newer" in line]) == 1
    assert "pip" not in done.stdout
    assert not (tmp_path / ".venv").exists()


def test_make_demo_says_what_it_downloads_before_it_does(tmp_path: Path) -> None:
    """Half a gigabyte over a phone's connection should be a choice."""
    steps = make(tmp_path, "--dry-run", "demo").stdout.splitlines()
    told = next(number for number, line in enumerate(steps) if "MB" in line)
    installs = next(number for number, line in enumerate(steps) if "pip" in line and " -e ." in line)
    assert told < installs
    assert "-c constraints.txt" in steps[installs]
    assert steps[-1].endswith("wanflow run jobs/ad_variants.yaml")


def test_ci_runs_what_a_person_runs() -> None:
    """No second definition of "passes": CI calls make, and names no server to install from."""
    script = (ROOT / ".ci" / "run").read_text()
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert script.rstrip().endswith("make test")
    assert re.findall(r"https?://|index-url|\b[a-z0-9-]+\.(?:org|com|io|dev)\b", script) == []


@pytest.mark.parametrize(
    "name", ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "cluster/README.md"]
)
def test_links_between_our_pages_lead_somewhere(name: str) -> None:
    page = ROOT / name
    links = re.findall(r"\]\((?!https?://|#|mailto:)([^)#\s]+)", page.read_text())
    links += re.findall(r'(?:src|href)="(?!https?://)([^"#]+)"', page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []
