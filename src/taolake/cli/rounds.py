"""Commands that run things: the embedded example, a round, a stage; and how far a round is."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from taolake.cli.common import (
    DEMO,
    ConfigArgument,
    Opened,
    RoundOption,
    brief,
    fail,
    load,
    load_usable,
    report_folder,
    say,
)

if TYPE_CHECKING:
    from taolake.config import Project


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
    project = load_usable(config)
    if fresh:
        import shutil

        for folder in {project.lake, project.work}:
            shutil.rmtree(folder, ignore_errors=True)
    run_round(project, 1, config)


def run(config: ConfigArgument = Path(DEMO), round_: RoundOption = 1) -> None:
    """Run a whole round; stages that are done are skipped.

    \b
    taolake run conf/mine.yml
    taolake run conf/mine.yml --round 2
    """
    run_round(load_usable(config), round_, config)


def stage(
    name: Annotated[
        str,
        typer.Argument(
            help="ingest, generate, label, score, reward, trust, select, train, evaluate, gate or register."
        ),
    ],
    config: ConfigArgument = Path(DEMO),
    round_: RoundOption = 1,
) -> None:
    """Run one stage; those before it must be done.

    \b
    taolake stage generate conf/mine.yml
    """
    from taolake import stages
    from taolake.stages import base

    try:
        wanted = stages.named(name)
    except ValueError as error:
        raise fail(str(error)) from None
    project = load_usable(config)
    stages.prepare(project)
    base.begin(project, round_)
    with Opened(project, round_) as opened:
        outcome, ran = stages.run(opened, wanted.name)
        say(wanted.name, outcome.detail, ran)


def collect(
    config: ConfigArgument = Path(DEMO),
    everything: Annotated[
        bool, typer.Option("--all", help="Read every log from its beginning; adds only what is not there yet.")
    ] = False,
) -> None:
    """Bring logs of production into the lake, personal data replaced; a round then learns from them.

    \b
    taolake collect conf/mine.yml
    taolake collect conf/mine.yml --all
    """
    from taolake.stages.collect import collect as run_collect

    with Opened(load(config), 1) as opened:
        outcome = run_collect(opened, stream=not everything)
    say("collect", {"new": outcome.rows, **outcome.detail}, True)


def status(
    config: ConfigArgument = Path(DEMO),
    round_: RoundOption = 1,
    live: Annotated[bool, typer.Option("--live", help="Only what runs now; starts no Spark.")] = False,
) -> None:
    """Show what each stage of a round did, or is doing.

    \b
    taolake status conf/mine.yml
    taolake status conf/mine.yml --live
    """
    from rich.console import Console
    from rich.table import Table

    from taolake import stages
    from taolake.stages.live import running, sentence

    project = load(config)
    states = running(Path(project.work))
    for state in states:
        typer.echo(sentence(state, time.time()))
    if live:
        if not states:
            typer.echo(f"Nothing is being generated below {project.work}.")
        return
    table = Table("stage", "state", "seconds", "detail", title=f"{project.name}, round {round_}")
    with Opened(project, round_) as opened:
        records, prints = opened.records(), stages.fingerprints(opened.project)
    for each in stages.STAGES:
        record = records.get(each.name)
        if record is None:
            table.add_row(each.name, "-", "", each.summary)
            continue
        stale = " (config changed)" if record.fingerprint != prints[each.name] else ""
        table.add_row(each.name, record.state + stale, f"{record.seconds:.1f}", brief(record.detail))
    Console().print(table)


def run_round(project: "Project", number: int, config: Path) -> None:
    """Run what is left of a round, and write its card."""
    from taolake import stages
    from taolake.report import card
    from taolake.stages import base

    stages.prepare(project)
    base.begin(project, number)
    ran_any, detail = False, {}
    with Opened(project, number) as opened:
        for each, outcome, ran in stages.run_all(opened):
            say(each.name, outcome.detail, ran)
            ran_any, detail = ran_any or ran, outcome.detail
        page = report_folder(project) / "index.html"
        if ran_any or not page.exists():
            card.write(opened, page.parent)
    typer.echo("" if ran_any else "Nothing to do: every stage of this round is done.")
    where = "" if str(config) == DEMO else f" --config {config}"
    typer.echo(f"Proof card      {page}")
    typer.echo(f"Model           {detail['name']} version {detail['version']} ({detail['alias']})")
    typer.echo(f"Talk to it      taolake chat{where} --alias {detail['alias']} {detail['question']!r}")
