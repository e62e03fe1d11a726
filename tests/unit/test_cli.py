"""The command line without Spark: what is checked, listed and refused, and that every command explains itself."""

import re
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from taolake import cli, lake, reference, stages

ROOT = Path(__file__).parents[2]
COMMANDS = sorted(typer.main.get_command(cli.app).commands)  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run from the repository's root, on a wide terminal without colours."""
    monkeypatch.chdir(ROOT)
    for name, value in {"COLUMNS": "200", "TERMINAL_WIDTH": "200", "NO_COLOR": "1", "TERM": "dumb"}.items():
        monkeypatch.setenv(name, value)


def run(*words: str) -> Result:
    return CliRunner().invoke(cli.app, list(words))


def test_there_are_the_commands_the_issue_asks_for() -> None:
    assert set(COMMANDS) >= {"demo", "run", "stage", "status", "report", "check", "tables", "chat"}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_says_what_a_command_does_and_shows_an_example(command: str) -> None:
    said = run(command, "--help")
    assert said.exit_code == 0
    lines = [line.strip() for line in said.output.splitlines()]
    assert any(re.match(rf"taolake {command}\b", line) for line in lines), said.output
    callbacks = {c.callback.__name__: c.callback.__doc__ for c in cli.app.registered_commands if c.callback}
    groups = {group.name: group.typer_instance.info.help for group in cli.app.registered_groups if group.typer_instance}
    first = ((callbacks | groups)[command] or "").strip().splitlines()[0]
    assert len(first) > 20
    assert first.split(",")[0] in " ".join(lines)


def test_the_bare_command_lists_every_command_with_examples() -> None:
    for words in ((), ("--help",)):
        said = run(*words).output
        assert [command for command in COMMANDS if not re.search(rf"^\W*{command}\b", said, re.M)] == []
        assert "taolake check conf/mine.yml" in said


@pytest.mark.parametrize("path", ["conf/demo.yml", "conf/filings.yml"])
def test_check_says_that_a_file_is_right(path: str) -> None:
    said = run("check", path)
    assert said.exit_code == 0
    assert re.fullmatch(rf"{path}: right\. Project '\w+', config hash [0-9a-f]{{12}}\.\n", said.output)


def test_check_says_what_is_wrong(tmp_path: Path) -> None:
    text = (ROOT / "conf" / "demo.yml").read_text(encoding="utf-8")
    path = tmp_path / "mine.yml"
    path.write_text(text.replace("seed: 7", "sede: 7").replace("holdout: 0.3", "holdout: 3"), encoding="utf-8")
    said = run("check", str(path))
    assert said.exit_code == 2
    assert said.stdout == ""
    assert said.stderr.splitlines()[0] == f"taolake: {path} is not a valid project:"
    assert sorted(line.strip().partition(":")[0] for line in said.stderr.splitlines()[1:]) == ["ingest.holdout", "sede"]
    assert "did you mean 'seed'?" in said.stderr


def test_check_says_what_a_module_raises_when_it_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine_broken.py").write_text("def numbers(:\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    text = (ROOT / "conf" / "filings.yml").read_text(encoding="utf-8")
    path = tmp_path / "mine.yml"
    path.write_text(text.replace("taolake.demo.filings_checks:numbers", "mine_broken:numbers"))
    said = run("check", str(path))
    assert said.exit_code == 2
    assert "scorers.numbers.target: got SyntaxError from importing 'mine_broken:numbers'" in said.stderr


def test_of_the_template_check_asks_for_the_functions_alone() -> None:
    said = run("check", "conf/template.yml")
    assert said.exit_code == 2
    assert [line.split()[0] for line in said.stderr.splitlines()[1:]] == ["scorers.polite.target:"]


@pytest.mark.parametrize("command", [["check"], ["run"], ["stage", "ingest"], ["flywheel"]])
def test_every_function_that_does_not_import_is_named_before_anything_is_made(
    command: list[str], tmp_path: Path
) -> None:
    text = (ROOT / "conf" / "filings.yml").read_text(encoding="utf-8")
    path = tmp_path / "mine.yml"
    path.write_text(text.replace("checks:numbers", "checks:numerals").replace("filings:prepare", "nowhere:prepare"))
    said = run(*command, str(path))
    assert said.exit_code == 2
    assert said.stdout == ""
    first, *others = said.stderr.splitlines()
    assert first == f"taolake: {path}: the project names functions that cannot be used:"
    assert [line.split(": got function ")[0].strip() for line in others] == ["prepare", "scorers.numbers.target"]
    assert all("wanted one that imports" in line for line in others)


@pytest.mark.parametrize("command", ["check", "run", "status", "report"])
def test_a_missing_file_is_one_line(command: str) -> None:
    said = run(command, "conf/nowhere.yml")
    assert said.exit_code == 2
    assert said.stderr == "taolake: no project file conf/nowhere.yml; start from conf/template.yml\n"


def test_check_prints_the_reference() -> None:
    assert run("check", "--reference").output == reference.page()


def test_tables_lists_every_table_with_its_writer_and_key() -> None:
    said = run("tables")
    assert said.exit_code == 0
    lines = said.output.splitlines()
    assert [line.split()[0] for line in lines] == [table.name for table in lake.TABLES]
    assert lines[0].endswith("Written by ingest; key prompt_id.")


def test_an_unknown_table_is_refused_with_the_known_ones() -> None:
    said = run("tables", "prompt")
    assert said.exit_code == 2
    assert said.stderr == f"taolake: got table 'prompt', wanted one of {', '.join(t.name for t in lake.TABLES)}\n"


def test_an_unknown_stage_is_refused_with_the_known_ones() -> None:
    said = run("stage", "judge")
    assert said.exit_code == 2
    assert said.stderr == f"taolake: got stage 'judge', wanted one of {', '.join(s.name for s in stages.STAGES)}\n"


def test_the_help_of_stage_names_every_stage() -> None:
    said = run("stage", "--help").output
    assert [stage.name for stage in stages.STAGES if stage.name not in said] == []


@pytest.mark.parametrize("words", [("frobnicate",), ("run", "--round", "0"), ("tables", "--limit", "0"), ("stage",)])
def test_wrong_words_are_refused(words: tuple[str, ...]) -> None:
    said = run(*words)
    assert said.exit_code == 2
    assert said.stdout == ""
    assert "Usage: " in said.stderr


def test_a_known_problem_ends_with_one_line_and_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise RuntimeError("stage 'select' of round 1 is never started")

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert capsys.readouterr().err == "taolake: stage 'select' of round 1 is never started\n"


def test_an_unknown_problem_keeps_its_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(KeyError, match="a bug"):
        cli.main()
