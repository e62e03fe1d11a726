"""Commands that look on over time: production's windows, the history of rounds, and whether the next one is due."""

from pathlib import Path
from typing import Annotated

import typer

from taolake.cli.common import DEMO, ConfigArgument, Opened, brief, load, load_usable, report_folder, say


def monitor(
    config: ConfigArgument = Path(DEMO),
    out: Annotated[Path | None, typer.Option(help="Folder; default: `report` beside the work folder.")] = None,
) -> None:
    """Measure what production answers look like, and write a page; only windows that changed are measured.

    \b
    taolake monitor conf/mine.yml
    """
    from taolake.report import monitor as page
    from taolake.stages import monitor

    project = load(config)
    with Opened(project, 1) as opened:
        outcome = monitor.monitor(opened)
        typer.echo(brief(outcome.detail))
        for alert in outcome.detail["alerts"]:
            typer.echo(f"alert: {alert}")
        typer.echo(str(page.write(opened, out or report_folder(project))))


def history(
    config: ConfigArgument = Path(DEMO),
    out: Annotated[Path | None, typer.Option(help="Folder; default: `report` beside the work folder.")] = None,
) -> None:
    """Write the page of all rounds: what each changed, and why it was or was not promoted.

    \b
    taolake history conf/mine.yml
    """
    from taolake.report import history

    project = load(config)
    with Opened(project, 1) as opened:
        typer.echo(str(history.write(opened, out or report_folder(project))))


def flywheel(
    config: ConfigArgument = Path(DEMO),
    plan: Annotated[bool, typer.Option("--plan", help="Say whether a round is due, and run none.")] = False,
) -> None:
    """Collect, and run the next round if enough new, different prompts are in; an unfinished one goes on.

    For a daily schedule.

    \b
    taolake flywheel conf/mine.yml --plan
    taolake flywheel conf/mine.yml
    """
    from taolake.cli.rounds import run_round
    from taolake.report import history
    from taolake.stages import trigger
    from taolake.stages.collect import collect

    project = load_usable(config)
    with Opened(project, 1) as opened:
        if not plan:
            say("collect", collect(opened).detail, True)
        found = trigger.trigger(opened).detail
    typer.echo(f"{'due' if found['due'] else 'not due'}: {found['says']}")
    if plan or not found["due"]:
        return
    run_round(project, found["next_round"], config)
    with Opened(project, 1) as opened:
        typer.echo(f"History         {history.write(opened, report_folder(project))}")
