"""Commands that look after what is served: monitoring, the canary, the next round, the history of rounds."""

from pathlib import Path
from typing import Annotated

import typer

from taolake.cli.common import DEMO, ConfigArgument, Opened, brief, load, report_folder


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
