"""The rules of the house, read off the imports of every module: who may know whom, and where the doors are.

A rule that lives in a wiki is broken by the third engineer; these break the build and print the chain that broke them.
Imports inside functions count as well (they are knowledge), unless a rule is about what loading a module costs.
Imports under ``if TYPE_CHECKING`` do not: they are gone at run time.
"""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import os
import re
import resource
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import wanflow

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "wanflow"

#: library -> the only packages or modules that may import it
DOORS: dict[str, tuple[str, ...]] = {
    "ray": ("wanflow.pool",),
    **dict.fromkeys(
        ["torch", "torchao", "diffusers", "transformers", "accelerate", "sentencepiece"],
        ("wanflow.engines", "wanflow.cascade", "wanflow.pocket"),
    ),
    **dict.fromkeys(["ffmpeg", "imageio_ffmpeg"], ("wanflow.assemble",)),
    # the decoder's children open strangers' files, so that they may die of them
    "subprocess": ("wanflow.assemble", "wanflow.decoder"),
    **dict.fromkeys(
        ["fsspec", "s3fs", "gcsfs", "adlfs", "botocore", "aiobotocore", "boto3"], ("wanflow.storage",)
    ),
    "av": ("wanflow.master", "wanflow.quality", "wanflow.decoder"),
    # clones a process with Ray's and torch's threads in it
    "multiprocessing": (),
}
#: loading these must cost none of the libraries behind the doors
LIGHT = [
    "wanflow.engines",
    "wanflow.cascade",
    "wanflow.assemble",
    "wanflow.pool",
    "wanflow.planning",
    "wanflow.driver",
]
HEAVY = ["torch", "diffusers", "transformers", "ray"]
#: ``wanflow --help`` loads none of these
NOT_FOR_HELP = [
    *HEAVY,
    "fsspec",
    "s3fs",
    "pyarrow",
    "pandas",
    "numpy",
    "pydantic",
    "jinja2",
    "av",
    "PIL",
    "ffmpeg",
]

#: module or package -> all that it may import from wanflow, itself aside
MAY_IMPORT: dict[str, set[str]] = {
    "wanflow.model": set(),
    "wanflow.errors": {"wanflow.model"},
    "wanflow.keys": {"wanflow.model", "wanflow.errors"},
    "wanflow.schedule": {"wanflow.model", "wanflow.errors"},
    "wanflow.assemble.graph": {"wanflow.model", "wanflow.errors", "wanflow.assemble.sound", "wanflow.audio"},
    "wanflow.assemble.sound": {"wanflow.model", "wanflow.errors", "wanflow.audio"},
}
#: module or package -> what it must not reach, through any chain of imports
MUST_NOT_REACH: dict[str, tuple[str, ...]] = {
    "wanflow.schedule": (*HEAVY, "fsspec", "subprocess", "asyncio", "time", "random", "logging"),
    "wanflow.keys": (*HEAVY, "fsspec", "subprocess", "asyncio", "time", "random", "logging"),
    "wanflow.assemble.graph": (*HEAVY, "fsspec", "subprocess", "asyncio", "time", "random", "logging"),
    "wanflow.engines": ("wanflow.assemble", "wanflow.publish"),
    "wanflow.cascade": ("wanflow.assemble", "wanflow.publish"),
    "wanflow.assemble": ("wanflow.engines", "wanflow.cascade", "wanflow.publish", "ray"),
    "wanflow.publish": ("wanflow.engines", "wanflow.cascade", "wanflow.assemble", *HEAVY, "subprocess"),
    # a plan is made before anything is started
    "wanflow.planning": ("wanflow.pool", "wanflow.driver", "wanflow.schedule", "ray", "subprocess"),
    "wanflow.manifest": (
        "wanflow.pool",
        "wanflow.driver",
        "wanflow.planning",
        "wanflow.publish",
        "ray",
        "subprocess",
    ),
    "wanflow.job": (
        "wanflow.pool",
        "wanflow.driver",
        "wanflow.planning",
        "wanflow.publish",
        "ray",
        "subprocess",
    ),
    # reads only the workspace, so that it works after any crash
    "wanflow.report": (
        "wanflow.pool",
        "wanflow.driver",
        "wanflow.engines",
        "wanflow.cascade",
        *HEAVY,
        "subprocess",
    ),
    # a second implementation: whoever shares code with the writers agrees with their mistakes
    "wanflow.verify": (
        "wanflow.records",
        "wanflow.publish",
        "wanflow.ledger",
        "wanflow.keys",
        "wanflow.report",
        "wanflow.planning",
        "wanflow.pool",
        "wanflow.driver",
        *HEAVY,
        "subprocess",
    ),
    "wanflow.storage": (
        "wanflow.job",
        "wanflow.manifest",
        "wanflow.planning",
        "wanflow.pool",
        "wanflow.report",
        *HEAVY,
    ),
}
#: what is in here is behind a wall of its own: whoever asks it knows nothing of how it answers
WALLED = ("wanflow.decoder",)
#: the first-party packages that these know directly (DESIGN: the way of the data)
KNOWS: dict[str, set[str]] = {
    "wanflow.planning": {
        # its version, in plan.parquet
        "wanflow",
        "wanflow.cascade",
        "wanflow.engines",
        "wanflow.errors",
        "wanflow.inputs",
        "wanflow.job",
        "wanflow.keys",
        # plans of earlier runs, to say what changed
        "wanflow.ledger",
        "wanflow.manifest",
        "wanflow.memo",
        "wanflow.model",
        "wanflow.pins",
        "wanflow.publish",
        "wanflow.records",
        "wanflow.storage",
        "wanflow.timings",
        "wanflow.unchanged",
    },
}


class Import(NamedTuple):
    target: str
    #: inside a function: costs nothing when the module is loaded
    lazy: bool


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


@functools.cache
def imports_of(module: str) -> tuple[Import, ...]:
    """All imports of a module; of first-party ones the module that the name lies in."""
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found: list[Import] = []

    def visit(node: ast.AST, lazy: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if is_type_checking(child):
                for other in child.orelse:  # type: ignore[attr-defined]
                    visit(other, lazy)
            elif isinstance(child, ast.Import):
                found.extend(Import(alias.name, lazy) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                base = child.module or ""
                if child.level:
                    parents = package.split(".")[: len(package.split(".")) - child.level + 1]
                    base = ".".join([*parents, base] if base else parents)
                for alias in child.names:
                    whole = f"{base}.{alias.name}"
                    found.append(Import(whole if whole in MODULES else base, lazy))
            else:
                visit(child, lazy or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda))

    visit(ast.parse(path.read_text()), lazy=False)
    return tuple(found)


def chains(module: str, *, eager_only: bool = False) -> Iterator[tuple[str, ...]]:
    """Every module and library that ``module`` reaches, as the shortest chain of imports that leads there."""
    seen = {module}
    edge: list[tuple[str, ...]] = [(module,)]
    while edge:
        ahead: list[tuple[str, ...]] = []
        for chain in edge:
            for target, lazy in (
                imports_of(chain[-1]) if chain[-1] in MODULES and chain[-1] not in WALLED else ()
            ):
                if target in seen or (lazy and eager_only):
                    continue
                seen.add(target)
                ahead.append((*chain, target))
                yield (*chain, target)
        edge = ahead


def members(package: str) -> list[str]:
    return [module for module in MODULES if within(module, package)]


def test_every_library_has_one_door() -> None:
    """Ray's next release breaks one folder, not twelve; so do torch's, ffmpeg's and fsspec's."""
    broken = [
        f"{module} imports {target}; only {doors or 'nobody'} may"
        for module in MODULES
        for target, _ in imports_of(module)
        for library, doors in DOORS.items()
        if within(target, library) and not any(within(module, door) for door in doors)
    ]
    assert broken == []


def test_every_library_that_is_imported_is_a_dependency() -> None:
    """It works here because something else brought it along; on a customer's machine nothing does."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = ["s3fs", "aiobotocore", "botocore", "gcsfs", "adlfs", *project["optional-dependencies"]["fp8"]]
    declared = {re.split(r"[\[<>=!~ ]", text)[0].lower() for text in [*project["dependencies"], *extras]}
    homes = importlib.metadata.packages_distributions()
    roots = {target.partition(".")[0] for module in MODULES for target, _ in imports_of(module)}
    foreign = roots - set(sys.stdlib_module_names) - {"wanflow"}
    assert {
        root
        for root in foreign
        if not declared & {name.lower().replace("_", "-") for name in homes.get(root, [root])}
    } == set()


def test_no_side_door_for_processes() -> None:
    """os.system is subprocess by another name."""
    side_doors = {"system", "popen", "fork", "forkpty", "posix_spawn", "posix_spawnp"}
    broken = [
        f"{module}:{node.lineno} os.{node.attr}"
        for module, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "os"
        and (node.attr in side_doors or node.attr.startswith(("exec", "spawn")))
    ]
    assert broken == []


def test_model_imports_the_standard_library_alone() -> None:
    """Everything exchanges these values, so they may drag nothing along."""
    assert [
        target
        for module in members("wanflow.model")
        for target, _ in imports_of(module)
        if target.partition(".")[0] not in sys.stdlib_module_names and not within(target, "wanflow.model")
    ] == []


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_pure_modules_know_only_values(package: str) -> None:
    """Decisions are functions of values: they are tested without a cluster, a clock or a disk."""
    broken = [
        " -> ".join(chain)
        for module in members(package)
        for chain in chains(module)
        if chain[-1] != "wanflow"
        and within(chain[-1], "wanflow")
        and not within(chain[-1], package)
        and not any(within(chain[-1], allowed) for allowed in MAY_IMPORT[package])
    ]
    assert broken == []


@pytest.mark.parametrize("package", MUST_NOT_REACH)
def test_layers_stay_apart(package: str) -> None:
    """What must not be known is not known through a friend either."""
    broken = [
        " -> ".join(chain)
        for module in members(package)
        for chain in chains(module)
        for forbidden in MUST_NOT_REACH[package]
        if within(chain[-1], forbidden)
    ]
    assert broken == []


@pytest.mark.parametrize("package", KNOWS)
def test_the_way_of_the_data(package: str) -> None:
    """New knowledge between the parts is a decision: it is taken here, not in passing."""
    known = {
        ".".join(target.split(".")[:2])
        for module in members(package)
        for target, _ in imports_of(module)
        if within(target, "wanflow") and not within(target, package)
    }
    assert known <= KNOWS[package]


def test_nothing_imports_the_cli() -> None:
    """What the command can do, a notebook can do without it."""
    importers = {
        module for module in MODULES for target, _ in imports_of(module) if within(target, "wanflow.cli")
    }
    assert {module for module in importers if not within(module, "wanflow.cli")} <= {"wanflow.__main__"}


def test_modules_are_split_before_five_hundred_lines() -> None:
    lengths = {module: len(path.read_text().splitlines()) for module, path in MODULES.items()}
    assert {module: length for module, length in lengths.items() if length >= 500} == {}


def test_modules_are_named_after_what_they_own() -> None:
    """A drawer labelled "utils" takes everything and gives nothing back."""
    drawers = {
        "util",
        "utils",
        "helper",
        "helpers",
        "manager",
        "managers",
        "common",
        "misc",
        "base",
        "core",
        "lib",
        "shared",
    }
    assert [module for module in MODULES if module.rpartition(".")[2] in drawers] == []


def test_modules_say_what_they_own() -> None:
    assert [
        module for module, path in MODULES.items() if not ast.get_docstring(ast.parse(path.read_text()))
    ] == []


def test_tests_use_our_fakes_and_not_mocks_of_our_code() -> None:
    """A mock agrees with whoever wrote it; wanflow.testing's fakes are product code with tests of their own."""
    mocks = [
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / "tests").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.ImportFrom) and (node.module or "").startswith("unittest.mock"))
        or (
            isinstance(node, ast.ImportFrom)
            and node.module == "unittest"
            and any(a.name == "mock" for a in node.names)
        )
        or (
            isinstance(node, ast.Import)
            and any(alias.name.startswith("unittest.mock") for alias in node.names)
        )
    ]
    assert mocks == []


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_wanflow_loads_no_library() -> None:
    """A notebook that only wants ``Job`` should not wait for torch."""
    loaded = python(f"import sys, wanflow; print([name for name in {NOT_FOR_HELP} if name in sys.modules])")
    assert loaded == "[]"


def test_light_packages_load_nothing_heavy() -> None:
    """An unchanged night imports the driver, plans and ends: without torch, without Ray."""
    there = [module for module in LIGHT if module in MODULES]
    loading = f"import sys\nfor name in {there}: __import__(name)"
    assert python(f"{loading}\nprint([name for name in {HEAVY} if name in sys.modules])") == "[]"


def test_help_answers_within_half_a_second_and_loads_nothing_heavy() -> None:
    """Processor time, best of three: on an idle machine it is the wait, on a busy one still the truth about us."""
    script = Path(sys.executable).with_name("wanflow")
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([script, "--help"], capture_output=True, text=True, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert done.returncode == 0, done.stderr
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    environment = {**os.environ, "PYTHONPROFILEIMPORTTIME": "1"}
    profile = subprocess.run(
        [script, "--help"], capture_output=True, text=True, env=environment, check=False
    ).stderr
    loaded = {
        line.rpartition("|")[2].strip() for line in profile.splitlines() if line.startswith("import time:")
    }
    assert "wanflow.cli" in loaded
    assert [name for name in NOT_FOR_HELP if name in loaded] == []
    assert min(seconds) < 0.5


PUBLIC = {"Job", "Outcome", "Plan", "plan", "run", "__version__"}


def test_public_names_are_exactly_these() -> None:
    """Adding one is a promise for years; removing one breaks somebody's notebook. Both happen here on purpose."""
    assert set(wanflow.__all__) == PUBLIC
    assert {name for name in dir(wanflow) if name in PUBLIC} == PUBLIC
    assert all(getattr(wanflow, name) is not None for name in PUBLIC)


@pytest.mark.parametrize(
    "first",
    [
        "import wanflow.planning",
        "import wanflow.driver",
        "from wanflow import plan, run, Job",
        "import wanflow.cli",
    ],
)
def test_plan_and_run_are_functions_in_every_import_order(first: str) -> None:
    """A submodule that is imported becomes an attribute of its package: one called plan would hide the function."""
    then = "import wanflow.planning, wanflow.driver, wanflow.cli, wanflow.job\nfrom wanflow import plan, run, Job"
    types = "import types\nprint([type(x) is types.FunctionType for x in (plan, run)])"
    assert python(f"{first}\n{then}\n{types}") == "[True, True]"
