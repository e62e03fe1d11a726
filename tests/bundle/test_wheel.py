"""The wheel that the bundle builds, by its own command, in an environment that has nothing else of ours."""

import os
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from tests.bundle.resolve import ROOT

LOCK = ROOT / "requirements" / "cpu.txt"


def run(command: list[str], folder: Path, more: Mapping[str, str] | None = None) -> str:
    """Run a command that must succeed, with `uv` within reach and this environment's Python path out of it."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    bare = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME")}
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env={**bare, "PATH": path, **(more or {})}
    )
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built in a copy of the tree, as a deployment does, so that this one stays as it is."""
    copy = tmp_path_factory.mktemp("build") / "tree"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    shutil.copytree(ROOT / "src", copy / "src", ignore=shutil.ignore_patterns("__pycache__"))
    told = yaml.safe_load((ROOT / "databricks.yml").read_text(encoding="utf-8"))["artifacts"]["taolake"]["build"]
    run(shlex.split(told), copy)
    built = list((copy / "dist").glob("*.whl"))
    assert len(built) == 1
    return built[0]


@pytest.mark.slow  # asks the registry for the build backend
def test_it_holds_every_file_of_the_package_and_no_other(wheel: Path) -> None:
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    files = (p for p in (ROOT / "src").rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    assert packed == {path.relative_to(ROOT / "src").as_posix() for path in files}
    assert {"taolake/report/page.html.j2", "taolake/demo/families.toml", "taolake/cli/__init__.py"} <= packed


@pytest.mark.slow  # installs the whole lock, gigabytes
def test_it_works_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    """The lock first and the wheel after it, both as they are: the way a cluster's libraries are installed."""
    home = tmp_path / "empty"
    run(["uv", "venv", "--python", sys.executable, str(home)], tmp_path)
    python = str(home / "bin" / "python")
    install = ["uv", "pip", "install", "--quiet", "--no-deps", "--python", python]
    run([*install, "--require-hashes", "-r", str(LOCK)], tmp_path)
    run([*install, str(wheel)], tmp_path)
    where = run([python, "-c", "import taolake; print(taolake.__file__)"], tmp_path).strip()
    assert Path(where).is_relative_to(home)
    command = str(home / "bin" / "taolake")
    said = run([command, "--help"], tmp_path, {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})
    assert "taolake run conf/mine.yml" in said and "forget" in said
    assert "right. Project 'demo'" in run([command, "check", str(ROOT / "conf" / "demo.yml")], tmp_path)
