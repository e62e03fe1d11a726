"""The commands that serve, on this machine and behind an endpoint of a workspace, and that change what is served."""

from pathlib import Path
from typing import Annotated

import typer

from taolake.cli.common import DEMO, ConfigArgument, Opened, fail, load


def serve(
    config: ConfigArgument = Path(DEMO),
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port instead of the project file's.")] = None,
) -> None:
    """Serve the project's versions on this machine: vLLM's OpenAI server, and a gateway that logs, splits and limits.

    \b
    taolake serve conf/mine.yml                         then point any OpenAI client at http://127.0.0.1:8400/v1
    TAOLAKE_GATEWAY_KEYS=team=... taolake serve conf/mine.yml     callers need a key

    Requests and answers go to table `payloads`, thumbs and edits to `reactions`; section `gateway` of the project file
    has the versions and the limits.
    """
    from taolake.gateway import server
    from taolake.stages import served

    project = load(config)
    settings = project.gateway if port is None else project.gateway.model_copy(update={"port": port})
    server.serve(served.plan(project), settings, typer.echo, served.told(project))


def deploy(
    config: ConfigArgument = Path(DEMO),
    plan: Annotated[bool, typer.Option("--plan", help="Print what would change, and change nothing.")] = False,
    rollback: Annotated[bool, typer.Option("--rollback", help="Back to the version before.")] = False,
    version: Annotated[int, typer.Option(min=0, help="Version to serve; 0: the champion.")] = 0,
    first: Annotated[
        bool, typer.Option("--first", help="Register the untuned base model and serve it: what version 1 is.")
    ] = False,
) -> None:
    """Put the champion behind the serving endpoint: canary, promotion, or back. Without a catalog: on this machine.

    \b
    taolake deploy conf/mine.yml --plan
    taolake deploy conf/mine.yml
    taolake deploy conf/mine.yml --rollback
    """
    from taolake import databricks
    from taolake.serving import release
    from taolake.serving.steps import PASSED, PROBED
    from taolake.stages import base, deploy

    project = load(config)
    try:
        version = base.adopt(project) if first else version
        place = deploy.place(project, project.lake, databricks.client, version)
    except ValueError as error:
        raise fail(str(error)) from None
    if plan:
        for step in release.planned(place):
            typer.echo(f"{step.do.value:8} {step.says}")
        return
    waiting = release.Waiting(say=typer.echo)
    if rollback:
        release.withdraw(
            lambda want: deploy.place(project, project.lake, databricks.client, want.version), place.want, waiting
        )
        return
    if release.serve(place, waiting).judged(place.want.version) not in (PASSED, PROBED):
        raise typer.Exit(1)


def canary(
    config: ConfigArgument = Path(DEMO),
    plan: Annotated[bool, typer.Option("--plan", help="Print what would be decided, and change nothing.")] = False,
) -> None:
    """Decide about a version that gets a part of the requests: promote, hold or roll back, by its answers.

    \b
    taolake canary conf/mine.yml --plan
    taolake canary conf/mine.yml
    """
    from taolake import databricks
    from taolake.serving.release import Waiting
    from taolake.stages import canary

    with Opened(load(config), 1) as opened:
        outcome = canary.canary(opened, databricks.client, not plan, Waiting(say=typer.echo))
    typer.echo(f"{outcome.detail['verdict']}: {outcome.detail['says']}")
