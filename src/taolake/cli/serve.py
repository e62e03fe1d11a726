"""The command that changes a Databricks workspace's endpoint. It starts no Spark."""

from pathlib import Path
from typing import Annotated

import typer

from taolake.cli.common import DEMO, ConfigArgument, fail, load


def deploy(
    config: ConfigArgument = Path(DEMO),
    plan: Annotated[bool, typer.Option("--plan", help="Print what would change, and change nothing.")] = False,
    rollback: Annotated[bool, typer.Option("--rollback", help="Back to the version before.")] = False,
    version: Annotated[int, typer.Option(min=0, help="Version to serve; 0: the champion.")] = 0,
) -> None:
    """Put the champion behind the serving endpoint: canary, promotion, or back.

    \b
    taolake deploy conf/mine.yml --plan
    taolake deploy conf/mine.yml
    taolake deploy conf/mine.yml --rollback
    """
    from taolake import databricks
    from taolake.serving import release
    from taolake.serving.steps import PASSED
    from taolake.stages.deploy import wanted

    try:
        want = wanted(load(config), version)
    except ValueError as error:
        raise fail(str(error)) from None
    client = databricks.client()
    if not version:
        want = wanted(load(config), databricks.alias(client, want.model, "champion"))
    if plan:
        for step in release.plan(client, want):
            typer.echo(f"{step.do.value:8} {step.says}")
        return
    waiting = release.Waiting(say=typer.echo)
    if rollback:
        release.rollback(client, want, waiting)
        return
    if release.deploy(client, want, waiting).judged(want.version) != PASSED:
        raise typer.Exit(1)
