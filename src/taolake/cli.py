"""The `taolake` command: thin over the stages, the tables and the card.

Heavy libraries are imported inside the commands, so that `taolake --help` answers at once.
"""

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from taolake.config import Project
    from taolake.stages.round import Round

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="""Make a language model better from the prompts you already log, without labels.

    A round goes from logged prompts to a gated, registered model. Everything is in Delta tables; a killed run goes on
    where it stopped, and a finished one does nothing.

    \b
    taolake demo                      the embedded example, about ten minutes on two cores
    taolake check conf/mine.yml       is this project file right?
    taolake run conf/mine.yml         a whole round
    taolake report conf/mine.yml      the proof card of the last round
    """,
)

DEMO = "conf/demo.yml"
ConfigArgument = Annotated[Path, typer.Argument(help="Project file, see docs/config.md.", show_default=True)]
RoundOption = Annotated[int, typer.Option("--round", min=1, help="Round number.")]


@app.command()
def demo(
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Delete build/demo first, but keep the pre-trained model.")
    ] = False,
    config: Annotated[Path, typer.Option(help="Project file.")] = Path(DEMO),
) -> None:
    """Run the embedded example: a shop's logged questions, a tiny model, one whole round.

    \b
    taolake demo
    taolake demo --fresh
    """
    project = _load(config)
    if fresh:
        import shutil

        for folder in {project.lake, project.work}:
            shutil.rmtree(folder, ignore_errors=True)
    _run(project, 1, config)


@app.command()
def run(config: ConfigArgument = Path(DEMO), round_: RoundOption = 1) -> None:
    """Run a whole round; stages that are done are skipped.

    \b
    taolake run conf/mine.yml
    taolake run conf/mine.yml --round 2
    """
    _run(_load(config), round_, config)


@app.command()
def stage(
    name: Annotated[
        str, typer.Argument(help="ingest, generate, label, score, reward, select, train, evaluate, gate or register.")
    ],
    config: ConfigArgument = Path(DEMO),
    round_: RoundOption = 1,
) -> None:
    """Run one stage; those before it must be done.

    \b
    taolake stage generate conf/mine.yml
    """
    from taolake import stages

    try:
        wanted = stages.named(name)
    except ValueError as error:
        raise _fail(str(error)) from None
    project = _load(config)
    stages.prepare(project)
    with _open(project, round_) as opened:
        outcome, ran = stages.run(opened, wanted.name)
        _say(wanted.name, outcome.detail, ran)


@app.command()
def status(config: ConfigArgument = Path(DEMO), round_: RoundOption = 1) -> None:
    """Show what each stage of a round did, or is doing.

    \b
    taolake status conf/mine.yml
    """
    from rich.console import Console
    from rich.table import Table

    from taolake import stages

    project = _load(config)
    prints = stages.fingerprints(project)
    table = Table("stage", "state", "seconds", "detail", title=f"{project.name}, round {round_}")
    with _open(project, round_) as opened:
        records = opened.records()
    for each in stages.STAGES:
        record = records.get(each.name)
        if record is None:
            table.add_row(each.name, "-", "", each.summary)
            continue
        stale = " (config changed)" if record.fingerprint != prints[each.name] else ""
        table.add_row(each.name, record.state + stale, f"{record.seconds:.1f}", _brief(record.detail))
    Console().print(table)


@app.command()
def report(
    config: ConfigArgument = Path(DEMO),
    round_: RoundOption = 1,
    out: Annotated[Path | None, typer.Option(help="Folder; default: `report` beside the work folder.")] = None,
) -> None:
    """Write the proof card of a round, card.json and index.html, from the tables alone.

    \b
    taolake report conf/mine.yml --out /tmp/card
    """
    from taolake.report import card

    project = _load(config)
    with _open(project, round_) as opened:
        typer.echo(str(card.write(opened, out or _report_folder(project))))


@app.command()
def check(
    config: ConfigArgument = Path(DEMO),
    reference: Annotated[
        bool, typer.Option("--reference", help="Print docs/config.md, the page of all fields.")
    ] = False,
) -> None:
    """Validate a project file, without starting Spark.

    \b
    taolake check conf/mine.yml
    taolake check --reference > docs/config.md
    """
    if reference:
        from taolake.reference import page

        typer.echo(page(), nl=False)
        return
    project = _load(config)
    typer.echo(f"{config}: right. Project {project.name!r}, config hash {project.config_hash[:12]}.")


@app.command()
def tables(
    name: Annotated[str | None, typer.Argument(help="A table to show rows of; none lists them.")] = None,
    config: Annotated[Path, typer.Option(help="Project file.")] = Path(DEMO),
    limit: Annotated[int, typer.Option(min=1, help="Rows to show.")] = 20,
) -> None:
    """List the tables, or show rows of one.

    \b
    taolake tables
    taolake tables quarantine --config conf/mine.yml --limit 5
    """
    from taolake import lake

    if name is None:
        for table in lake.TABLES:
            typer.echo(f"{table.name:12} {table.comment} Written by {table.writer}; key {', '.join(table.key)}.")
        return
    found = {table.name: table for table in lake.TABLES}.get(name)
    if found is None:
        raise _fail(f"got table {name!r}, wanted one of {', '.join(t.name for t in lake.TABLES)}")
    with _open(_load(config), 1) as opened:
        opened.lake.read(found).show(limit, truncate=60, vertical=True)


@app.command()
def chat(
    question: Annotated[
        str | None, typer.Argument(help="Ask once; without it, questions are read line by line.")
    ] = None,
    config: Annotated[Path, typer.Option(help="Project file.")] = Path(DEMO),
    alias: Annotated[str, typer.Option(help="champion or challenger.")] = "champion",
) -> None:
    """Talk to the registered model.

    \b
    taolake chat "How many active customers are there?"
    """
    from taolake.stages import register

    project = _load(config)
    register.connect(project)
    model = register.Chat(f"models:/{project.register_.name}@{alias}")
    lines = [question] if question else iter(lambda: input("> "), "")
    try:
        for line in lines:
            typer.echo(model([{"role": "user", "content": line}], project.model.max_tokens))
    except EOFError:
        return


def main() -> None:
    """Entry point: known problems end with one line and exit code 1, unknown ones with their trace."""
    try:
        app()
    except (ValueError, FileNotFoundError, RuntimeError) as error:
        if "--debug" in sys.argv:
            raise
        typer.echo(f"taolake: {error}", err=True)
        raise SystemExit(1) from None


def _load(config: Path) -> "Project":
    from taolake.config import load

    if not config.exists():
        raise _fail(f"no project file {config}; start from conf/template.yml")
    try:
        return load(config)
    except ValueError as error:
        raise _fail(str(error)) from None


def _fail(text: str) -> typer.Exit:
    typer.echo(f"taolake: {text}", err=True)
    return typer.Exit(2)


class _open:
    """A round on a local session, which is stopped at the end."""

    def __init__(self, project: "Project", number: int) -> None:
        self._project, self._number = project, number

    def __enter__(self) -> "Round":
        from taolake.lake import Lake
        from taolake.session import local_session
        from taolake.stages.round import Round

        self._spark = local_session(log=Path(self._project.work) / "spark.log")
        return Round(Lake(self._spark, self._project.lake), self._project, self._number)

    def __exit__(self, *error: object) -> None:
        self._spark.stop()


def _run(project: "Project", number: int, config: Path) -> None:
    from taolake import stages
    from taolake.report import card

    stages.prepare(project)
    ran_any, detail = False, {}
    with _open(project, number) as opened:
        for each, outcome, ran in stages.run_all(opened):
            _say(each.name, outcome.detail, ran)
            ran_any, detail = ran_any or ran, outcome.detail
        page = _report_folder(project) / "index.html"
        if ran_any or not page.exists():
            card.write(opened, page.parent)
    typer.echo("" if ran_any else "Nothing to do: every stage of this round is done.")
    where = "" if str(config) == DEMO else f" --config {config}"
    typer.echo(f"Proof card      {page}")
    typer.echo(f"Model           {detail['name']} version {detail['version']} ({detail['alias']})")
    typer.echo(f"Talk to it      taolake chat{where} --alias {detail['alias']} {detail['question']!r}")


def _say(name: str, detail: dict[str, object], ran: bool) -> None:
    typer.echo(f"{name:10} {'done' if ran else 'was done'}  {_brief(detail)}")


def _brief(detail: dict[str, object]) -> str:
    """The plain facts of a stage's detail on one line."""
    said = [f"{key} {_plain(value)}" for key, value in detail.items() if _plain(value)]
    return ", ".join(said)


def _plain(value: object) -> str:
    """A number or a sentence; hashes and paths are for `taolake tables rounds`."""
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, str) and (len(value) > 100 or "/" in value or re.fullmatch("[0-9a-f]{8,}", value)):
        return ""
    return str(value) if isinstance(value, int | str) else ""


def _report_folder(project: "Project") -> Path:
    return Path(project.work).parent / "report"
