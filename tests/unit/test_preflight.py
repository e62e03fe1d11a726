"""Each thing that can be missing gives one line that says what was got, what is wanted and what to install."""

import stat
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from taolake import preflight

JAVA_17 = 'openjdk version "17.0.12" 2024-07-16'
JAVA_8 = 'java version "1.8.0_292"'


def fake_java(folder: Path, said: str) -> Path:
    """A `java` that says a version, on standard error as the real one does."""
    script = folder / "bin" / "java"
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(f"#!/bin/sh\nprintf '%s\\n' '{said}' >&2\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return script


@pytest.fixture
def path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine whose PATH ends in an empty folder; JAVA_HOME is not set."""
    monkeypatch.delenv("JAVA_HOME", raising=False)
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}")
    return tmp_path


def line_of(check: object, *args: object) -> str:
    """The one line a check refuses with."""
    with pytest.raises(RuntimeError) as refused:
        check(*args)  # type: ignore[operator]
    assert len(str(refused.value).splitlines()) == 1
    return str(refused.value)


def test_no_java_says_what_to_install(path: Path) -> None:
    said = line_of(preflight.require_java)
    assert said == "got no java; Spark needs Java 17 or newer: install openjdk-17-jre-headless, or set JAVA_HOME"


def test_java_home_without_java_says_where_it_looked(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_java(path, JAVA_17)
    monkeypatch.setenv("JAVA_HOME", str(path / "elsewhere"))
    assert line_of(preflight.require_java).startswith(f"got no java at {path}/elsewhere/bin/java; Spark needs Java 17")


@pytest.mark.parametrize(
    ("version", "got"),
    [
        (JAVA_8, f"got {JAVA_8}; Spark needs Java 17"),
        ('openjdk version "11.0.2"\nOpenJDK Runtime', 'got openjdk version "11.0.2"; Spark needs Java 17'),
        ("no such thing", "got no such thing; Spark needs Java 17"),
        ("", "got no answer; Spark needs Java 17"),
    ],
)
def test_a_wrong_java_says_what_was_got(path: Path, version: str, got: str) -> None:
    fake_java(path, version)
    assert line_of(preflight.require_java).startswith(got)


@pytest.mark.parametrize(
    "version", [JAVA_17, 'openjdk version "21" 2023-09-19', "Picked up _JAVA_OPTIONS: -x\n" + JAVA_17]
)
def test_a_right_java_passes(path: Path, version: str) -> None:
    fake_java(path, version)
    preflight.require_java()


def test_java_home_comes_before_the_path(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_java(path, JAVA_17)
    fake_java(path / "old", JAVA_8)
    monkeypatch.setenv("JAVA_HOME", str(path / "old"))
    assert line_of(preflight.require_java).startswith(f"got {JAVA_8}")


@pytest.mark.parametrize(
    ("version", "got"), [((3, 9, 2), "3.9"), ((3, 10, 0), "3.10"), ((3, 13, 0), "3.13"), ((2, 7, 1), "2.7")]
)
def test_a_wrong_python_says_which_is_wanted(
    monkeypatch: pytest.MonkeyPatch, version: tuple[int, ...], got: str
) -> None:
    monkeypatch.setattr(preflight, "sys", SimpleNamespace(version_info=version))
    assert line_of(preflight.require_python) == (
        f"got Python {got}, wanted 3.11 or 3.12: install python3.11 and python3.11-venv, then make PYTHON=python3.11"
    )


@pytest.mark.parametrize("version", [(3, 11, 0), (3, 12, 9)])
def test_a_right_python_passes(monkeypatch: pytest.MonkeyPatch, version: tuple[int, ...]) -> None:
    monkeypatch.setattr(preflight, "sys", SimpleNamespace(version_info=version))
    preflight.require_python()


def meminfo(folder: Path, available_kb: int) -> str:
    path = folder / "meminfo"
    path.write_text(f"MemTotal:       65780000 kB\nMemFree:          100000 kB\nMemAvailable:   {available_kb} kB\n")
    return str(path)


def test_too_little_memory_says_how_much_is_wanted(tmp_path: Path) -> None:
    wanted = preflight.MEMORY_GB
    said = line_of(preflight.require_memory, meminfo(tmp_path, 3 * 2**20))
    assert said == f"got 3.0 GiB of available memory, wanted {wanted}: close programs, or use a larger machine"
    line_of(preflight.require_memory, meminfo(tmp_path, wanted * 2**20 - 1))
    preflight.require_memory(meminfo(tmp_path, wanted * 2**20))


def test_where_memory_cannot_be_read_it_goes_on(tmp_path: Path) -> None:
    preflight.require_memory(str(tmp_path / "no-such-file"))
    (tmp_path / "odd").write_text("nothing of the kind\n")
    preflight.require_memory(str(tmp_path / "odd"))


def test_main_prints_one_line_and_fails(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert preflight.main() == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("taolake: got no java; ")
    assert len(told.err.splitlines()) == 1


def test_main_is_silent_on_a_good_machine(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_java(path, JAVA_17)
    monkeypatch.setattr(preflight.require_memory, "__defaults__", (meminfo(path, 64 * 2**20),))
    assert preflight.main() == 0
    assert capsys.readouterr() == ("", "")


def test_it_is_written_for_any_python_the_machine_may_have() -> None:
    """`make` runs it before there is an environment: newer syntax would be a syntax error there, not a line."""
    import ast

    tree = ast.parse(Path(preflight.__file__).read_text(encoding="utf-8"))
    assert not any(
        isinstance(node, ast.JoinedStr | ast.AnnAssign | ast.NamedExpr | ast.Match) for node in ast.walk(tree)
    )
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    assert len(functions) == 4
    assert all(f.returns is None and all(a.annotation is None for a in f.args.args) for f in functions)
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert imported <= set(sys.stdlib_module_names)
    assert not any(isinstance(node, ast.ImportFrom) for node in ast.walk(tree))
