"""The locks against the registry: they are what pyproject.toml asks for, and every file of theirs can be had.

A cluster's Python is 3.12 on Linux; no such Python, and no GPU, is needed to resolve for one.
"""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bundle.resolve import ROOT

pytestmark = pytest.mark.slow  # asks the registry for every package
LOCKS = ("cpu", "gpu", "databricks")
CLUSTER = ["--python-version", "3.12", "--python-platform", "x86_64-manylinux_2_34"]
UV = str(Path(sys.executable).with_name("uv"))


def commands() -> dict[str, list[str]]:
    """What `make lock` runs, by the lock it writes."""
    done = subprocess.run(["make", "-n", "lock"], cwd=ROOT, capture_output=True, text=True, check=True)
    found = [shlex.split(line) for line in done.stdout.splitlines() if " pip compile " in line]
    return {Path(words[words.index("-o") + 1]).stem: words for words in found}


@pytest.mark.parametrize("name", LOCKS)
def test_making_a_lock_again_changes_nothing(name: str, tmp_path: Path) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
    made = tmp_path / "requirements" / f"{name}.txt"
    subprocess.run([UV, *commands()[name][1:]], cwd=tmp_path, capture_output=True, check=True)
    before, after = ((folder / "requirements" / made.name).read_text().splitlines() for folder in (ROOT, tmp_path))
    assert len(before) > 1000
    assert [line for line in after if line not in set(before)] == []
    assert before == after


@pytest.mark.parametrize("name", ["gpu", "databricks"])
def test_every_file_of_a_cluster_s_lock_can_be_had_and_has_its_hash(name: str, tmp_path: Path) -> None:
    lock = ROOT / "requirements" / f"{name}.txt"
    assert set(CLUSTER) <= set(commands()[name])
    install = [UV, "pip", "install", "--dry-run", "--no-deps", "--require-hashes", *CLUSTER]
    done = subprocess.run(
        [*install, "--python", sys.executable, "--target", str(tmp_path), "-r", str(lock)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    pinned = {line.split()[0] for line in lock.read_text().splitlines() if line[:1].isalpha()}
    assert {line.split()[1] for line in done.stderr.splitlines() if line.startswith(" + ")} == pinned
    assert len(pinned) > 100
