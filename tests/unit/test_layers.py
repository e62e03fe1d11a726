"""The shape of the package: imports go down, heavy libraries come late, each door has one keeper (docs/design.md)."""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import taolake
from taolake import lake

ROOT = Path(taolake.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

# Top-level names of the package by floor. A name that is missing here fails the test: put it where it belongs.
FLOORS = {
    "__init__": 0, "types": 0, "ids": 0, "config": 0, "preflight": 0, "imports": 0, "beside": 0,
    "curation": 1, "sandbox": 1, "scoring": 1, "selection": 1, "trust": 1, "verdict": 1, "cost": 1, "access": 1,
    "lineage": 1, "watch": 1,
    "lake": 2, "session": 2, "engines": 2, "training": 2, "serving": 2, "gateway": 2, "unity": 2,
    "stages": 3, "report": 3, "reference": 3, "notebook": 3, "databricks": 3,
    "demo": 4,
    "cli": 5, "__main__": 6,
}  # fmt: skip
HEAVY = {"torch", "vllm", "trl", "mlflow", "transformers", "peft", "datasets", "accelerate"}
SPARK = {"pyspark", "delta"}
TELEMETRY = {"HF_HUB_DISABLE_TELEMETRY", "VLLM_NO_USAGE_STATS", "DO_NOT_TRACK", "MLFLOW_DISABLE_TELEMETRY"}

# Law 4: labels are read by `evaluate`. The others may know where the file is, never what is in it.
BLIND = ("stages/generate", "stages/label", "stages/score", "stages/reward", "stages/select", "stages/train",
         "training/", "scoring/", "selection/", "engines/")  # fmt: skip
MAY_NAME_GOLD = {
    "config/__init__.py": "its schema",
    "config/outcome.py": "its schema",
    "config/project.py": "its schema",
    "stages/__init__.py": "the file's hash is part of the stage's fingerprint",
    "stages/evaluate.py": "reads it",
    "stages/gate.py": "says in the verdict that labels decided",
    "report/card.py": "says on the card that labels decided",
}


def name_of(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def unit_of(file: Path) -> str:
    """The top-level module or package a file belongs to."""
    return file.relative_to(ROOT).parts[0].removesuffix(".py")


@cache
def nodes_of(file: Path) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(ast.parse(file.read_text(encoding="utf-8"), str(file))))


def imports_of(file: Path) -> Iterator[str]:
    """Top-level names of the package that a file imports anywhere, inside functions and for type checking too."""
    for node in nodes_of(file):
        if isinstance(node, ast.Import):
            for alias in node.names:
                parts = alias.name.split(".")
                if parts[0] == "taolake":
                    yield parts[1] if len(parts) > 1 else "__init__"
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(file)}:{node.lineno}: relative import, wanted `from taolake...`"
            parts = (node.module or "").split(".")
            if parts[0] == "taolake" and len(parts) > 1:
                yield parts[1]
            elif parts[0] == "taolake":
                yield from (alias.name if alias.name in FLOORS else "__init__" for alias in node.names)


@cache
def names_in(file: Path) -> set[str]:
    """Attributes, names, imported names and parameters a file's code mentions; text and comments do not count."""
    found: set[str] = set()
    for node in nodes_of(file):
        if isinstance(node, ast.Attribute):
            found.add(f".{node.attr}")
        if isinstance(node, ast.Name):
            found.add(node.id)
        if isinstance(node, ast.alias):
            found.add(node.name)
    return found


@cache
def loaded_after(*steps: str) -> list[set[str]]:
    """Top-level modules in a fresh interpreter after each step."""
    look = "print(json.dumps(sorted({m.partition('.')[0] for m in sys.modules})))"
    script = "\n".join(["import json, sys", *(line for step in steps for line in (step, look))])
    bare = {name: value for name, value in os.environ.items() if name not in TELEMETRY}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=bare)
    return [set(json.loads(line)) for line in done.stdout.splitlines() if line.startswith('["')]


def test_every_module_has_a_floor() -> None:
    units = {unit_of(file) for file in FILES}
    assert len(FILES) > 40
    assert sorted(units - FLOORS.keys()) == []


def test_imports_go_down_only() -> None:
    seen, wrong = 0, []
    for file in FILES:
        for unit in imports_of(file):
            seen += 1
            assert unit in FLOORS, f"{name_of(file)} imports taolake.{unit}, which has no floor"
            if FLOORS[unit] > FLOORS[unit_of(file)]:
                wrong.append(f"{name_of(file)} (floor {FLOORS[unit_of(file)]}) imports {unit} (floor {FLOORS[unit]})")
    assert seen > 100
    assert wrong == []


def test_modules_of_one_floor_do_not_import_each_other_in_a_circle() -> None:
    below: dict[str, set[str]] = {}
    for file in FILES:
        unit = unit_of(file)
        below.setdefault(unit, set()).update(set(imports_of(file)) - {unit, "__init__"})
    resolved: set[str] = {"__init__"}
    while ready := {unit for unit, needs in below.items() if needs <= resolved} - resolved:
        resolved |= ready
    assert sorted(below.keys() - resolved) == []


def test_the_direction_check_sees_imports_inside_functions() -> None:
    cli = {unit for file in (ROOT / "cli").glob("*.py") for unit in imports_of(file)}
    assert {"config", "stages", "report", "lake", "session", "reference"} <= cli


def test_a_floor_loads_no_library_it_must_not_know() -> None:
    """One interpreter, floor by floor; stages are named one by one, since `stages` imports each only when it runs."""
    stages = ", ".join(f"taolake.stages.{file.stem}" for file in sorted((ROOT / "stages").glob("[a-z]*.py")))
    low, high = loaded_after(
        "from taolake import config, types, ids, preflight, scoring, selection, trust, verdict, curation, watch\n"
        "import taolake.scoring.sql, taolake.scoring.checks, taolake.scoring.extract, taolake.curation.parse\n"
        "import taolake.selection.combine, taolake.selection.weights, taolake.watch.canary, taolake.watch.texts",
        "from taolake import lake, engines, stages, cli, session, reference, notebook, databricks\n"
        f"import {stages}, taolake.engines.vllm, taolake.engines.endpoint, taolake.training.launch\n"
        "import taolake.serving.release, taolake.gateway.server, taolake.gateway.drain",
    )
    assert {"taolake", "pydantic", "numpy"} <= low
    assert low & (HEAVY | SPARK) == set()
    assert {"taolake", "typer"} <= high
    assert high & HEAVY == set()


def test_help_loads_next_to_nothing_and_telemetry_is_off() -> None:
    """What `taolake --help` costs is what it imports; a stopwatch would measure the machine."""
    (loaded,) = loaded_after(
        "sys.argv = ['taolake', '--help']\nfrom taolake.cli import main\ntry: main()\nexcept SystemExit: pass\n"
        f"import os; assert all(os.environ.get(name) in ('1', 'true') for name in {sorted(TELEMETRY)!r})"
    )
    assert {"taolake", "typer"} <= loaded
    assert loaded & (HEAVY | SPARK | {"pandas", "numpy", "scipy", "matplotlib", "pyarrow", "httpx", "duckdb"}) == set()


def test_only_lake_opens_a_table_of_ours() -> None:
    """Outside the lake no table is opened, written or named to Spark; others read the user's own, or work files."""
    doors = {"DeltaTable", ".forPath", ".forName", ".saveAsTable", ".insertInto", ".createOrReplace", ".writeTo"}
    through = {name_of(file): sorted(names_in(file) & doors) for file in FILES if names_in(file) & doors}
    assert list(through) == ["lake/__init__.py", "lake/direct.py"]
    readers = {name_of(file) for file in FILES for node in nodes_of(file) if is_spark_read(node)}
    users_own = {"stages/collect.py", "stages/ingest.py", "stages/spark_sql.py"}
    work_files = (f"stages/{name}.py" for name in ("commits", "journal", "ledger"))
    assert readers == {"lake/__init__.py", "lake/purge.py", *users_own, *work_files}


def is_spark_read(node: ast.AST) -> bool:
    """`spark.read`, in any spelling that ends in it; `.sql(` of a session counts as well."""
    if isinstance(node, ast.Attribute) and node.attr in ("read", "sql", "table"):
        return ast.unparse(node.value).rpartition(".")[2] in ("spark", "session", "_spark")
    return False


def test_only_lake_names_a_table_in_a_path() -> None:
    """No text outside the lake ends in a table's name after a slash or a dot, as a path or a three-level name would."""
    ends = tuple(f"{mark}{table.name}" for table in lake.TABLES for mark in ("/", "}.", "lake."))
    assert len(ends) == 3 * len(lake.TABLES) > 20
    found = [
        f"{name_of(file)}:{node.lineno}: {node.value!r}"
        for file in FILES
        if unit_of(file) != "lake"
        for node in nodes_of(file)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.endswith(ends)
    ]
    assert found == []


def test_only_session_creates_a_session() -> None:
    makers = {".getOrCreate", ".builder", "SparkContext", ".newSession"}
    assert [name_of(file) for file in FILES if names_in(file) & makers] == ["session.py"]


def test_labels_are_read_by_evaluate_alone() -> None:
    readers = {name_of(file) for file in FILES if names_in(file) & {"read_labels", ".read_labels"}}
    assert readers == {"stages/evaluate.py"}
    naming = {name_of(file) for file in FILES if names_in(file) & {".gold", "Gold"}}
    assert sorted(n for n in naming if n not in MAY_NAME_GOLD and not n.startswith("demo/")) == []
    assert "stages/evaluate.py" in naming


def test_a_file_of_labels_is_opened_at_two_places_alone() -> None:
    """Where the model is measured, and where labels are given away for training; the latter refuses held-out ones."""
    importers = {
        name_of(file)
        for file in FILES
        for node in nodes_of(file)
        if isinstance(node, ast.ImportFrom) and node.module == "taolake.curation.labels"
    }
    assert importers == {"stages/evaluate.py", "stages/labelled.py"}


@pytest.mark.parametrize("part", BLIND)
def test_what_makes_training_data_never_names_a_label(part: str) -> None:
    files = [file for file in FILES if name_of(file).startswith(part)]
    assert files
    for file in files:
        assert names_in(file) & {".gold", "Gold", "read_labels", ".read_labels"} == set(), name_of(file)
        modules = {n.module for n in nodes_of(file) if isinstance(n, ast.ImportFrom)}
        assert "taolake.stages.evaluate" not in modules, name_of(file)
        assert not any(".gold" in s or "'gold'" in s for s in getattr_texts(file)), name_of(file)


def getattr_texts(file: Path) -> list[str]:
    """Arguments of getattr and subscripts, the ways to reach a field without naming it as one."""
    nodes = [n for n in nodes_of(file) if isinstance(n, ast.Call | ast.Subscript)]
    calls = [ast.unparse(n) for n in nodes if isinstance(n, ast.Call) and ast.unparse(n.func) == "getattr"]
    return calls + [f"[{ast.unparse(n.slice)}]" for n in nodes if isinstance(n, ast.Subscript)]
