"""Commands that look: the card, the trust report, the project file, the tables, the model itself."""

from pathlib import Path
from typing import Annotated

import typer

from taolake.cli.common import (
    DEMO,
    REFUSED,
    ConfigArgument,
    Opened,
    RoundOption,
    fail,
    load,
    load_usable,
    report_folder,
)


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

    project = load(config)
    with Opened(project, round_) as opened:
        typer.echo(str(card.write(opened, out or report_folder(project))))


def trust(
    config: ConfigArgument = Path(DEMO),
    round_: RoundOption = 1,
    out: Annotated[Path | None, typer.Option(help="Folder; default: `report` beside the work folder.")] = None,
) -> None:
    """Write the trust report of a round: does the reward agree with people? trust.json and trust.html.

    \b
    taolake trust conf/mine.yml
    """
    from taolake.report import trust as page

    project = load(config)
    with Opened(project, round_) as opened:
        written = page.write(opened, out or report_folder(project))
        found = opened.records()["trust"].detail
    typer.echo(f"{found['says']}\n{written}")
    if not found["trusted"]:
        raise typer.Exit(REFUSED)


def check(
    config: ConfigArgument = Path(DEMO),
    reference: Annotated[
        bool, typer.Option("--reference", help="Print docs/config.md, the page of all fields.")
    ] = False,
) -> None:
    """Validate a project file and import the functions it names, without starting Spark.

    \b
    taolake check conf/mine.yml
    taolake check --reference > docs/config.md
    """
    if reference:
        from taolake.reference import page

        typer.echo(page(), nl=False)
        return
    project = load_usable(config)
    typer.echo(f"{config}: right. Project {project.name!r}, config hash {project.config_hash[:12]}.")


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
        raise fail(f"got table {name!r}, wanted one of {', '.join(t.name for t in lake.TABLES)}")
    with Opened(load(config), 1) as opened:
        opened.lake.read(found).show(limit, truncate=60, vertical=True)


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
    from taolake.stages import register, registry

    project = load(config)
    registry.connect(project)
    model = register.Chat(f"models:/{project.register_.name}@{alias}")
    lines = [question] if question else iter(lambda: input("> "), "")
    try:
        for line in lines:
            typer.echo(model([{"role": "user", "content": line}], project.model.max_tokens))
    except EOFError:
        return
