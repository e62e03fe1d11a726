"""Commands about whose data is where: lineage of a version, forgetting a person, replaying a round."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from taolake.cli.common import ConfigArgument, Opened, RoundOption, fail, load, report_folder

if TYPE_CHECKING:
    from taolake.stages.forget import Plan

PagesOption = Annotated[
    list[Path] | None, typer.Option(help="Further folders of reports to search; `report` beside the work folder is.")
]


def lineage(
    config: ConfigArgument,
    version: Annotated[int | None, typer.Option(min=1, help="Registered version: what trained it?")] = None,
    prompt: Annotated[str | None, typer.Option(help="Prompt id: which versions learned from it?")] = None,
    user: Annotated[str | None, typer.Option(help="Who asked, as the log names them: likewise.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write all ids to this file, as JSON.")] = None,
) -> None:
    """Say what a registered version learned from, or which versions learned from a prompt or a person.

    \b
    taolake lineage conf/mine.yml --version 3 --out lineage.json
    taolake lineage conf/mine.yml --prompt 0f6a...
    taolake lineage conf/mine.yml --user somebody@example.org
    """
    from taolake.stages import learned

    if sum(each is not None for each in (version, prompt, user)) != 1:
        raise fail("give one of --version, --prompt and --user")
    with Opened(load(config), 1) as opened:
        if version is not None:
            found = learned.of_version(opened, version)
        elif prompt is not None:
            found = {"prompts": [prompt], "versions": [v.label for v in learned.of_prompts(opened, [prompt])]}
        else:
            prompts, versions = learned.of_user(opened, user or "")
            found = {"prompts": sorted(prompts), "versions": [v.label for v in versions]}
    for key, value in found.items():
        typer.echo(f"{key:24} {_short(value)}")
    if out is not None:
        out.write_text(json.dumps(found, indent=1, sort_keys=True), encoding="utf-8")


def forget(
    config: ConfigArgument,
    user: Annotated[str, typer.Option(help="Who, as the log names them.")],
    plan: Annotated[bool, typer.Option("--plan", help="Say what would go, and change nothing.")] = False,
    pages: PagesOption = None,
) -> None:
    """Forget a person: rows, older table versions and files; then search everything for what is left.

    Nothing else may write the tables meanwhile. Started again after a kill, it goes on.

    \b
    taolake forget conf/mine.yml --user somebody@example.org --plan
    taolake forget conf/mine.yml --user somebody@example.org
    """
    from taolake.stages import forget as forgetting

    project = load(config)
    folders = [folder for folder in (report_folder(project), *(pages or ())) if folder.is_dir()]
    with Opened(project, 1) as opened:
        if plan:
            _tell(forgetting.plan(opened, user, folders), "would lose")
            return
        done = forgetting.forget(opened, user, folders)
    _tell(done.plan, "lost")
    for source in done.sources:
        typer.echo(f"{source} still holds it and is not ours to change: mend it before the next ingest")
    for path in done.left:
        typer.echo(f"left in {path}", err=True)
    if done.left:
        raise typer.Exit(1)
    typer.echo("Searched every file of tables, work and reports: nothing is left.")


def replay(config: ConfigArgument, round_: RoundOption = 1) -> None:
    """Make a round's training set again from the table versions it was made from: is it the same?

    \b
    taolake replay conf/mine.yml --round 2
    """
    from taolake.stages.replay import replay as replayed

    with Opened(load(config), round_) as opened:
        found = replayed(opened)
    typer.echo(f"recorded {found.recorded}\nnow      {found.now or 'cannot be made'}")
    for reason in found.why:
        typer.echo(reason)
    typer.echo("The same training set." if found.same else "Not the same training set.")
    if not found.same:
        raise typer.Exit(1)


def _tell(plan: "Plan", verb: str) -> None:
    if not plan:
        typer.echo("Nothing of this person is here.")
        return
    gone, shared = len(plan.trace.gone), len(plan.trace.shared)
    typer.echo(f"{gone} prompts that nobody else asked; {shared} that others asked too stay, without their share")
    for name, count in plan.rows.items():
        typer.echo(f"{name:14} {verb} {count} rows" if name != "rounds" else f"{name:14} {count} rows quote it")
    typer.echo(f"{'files':14} {len(plan.files)} hold some of it")
    for model in plan.models:
        typer.echo(f"{model} learned from it: retire it, or train it again without")


def _short(value: Any) -> str:
    """Ids are counted; the rest is shown."""
    if isinstance(value, list):
        return ", ".join(map(str, value)) if len(value) <= 3 else f"{len(value)}, as {', '.join(map(str, value[:2]))}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {each}" for key, each in value.items())
    return str(value)
