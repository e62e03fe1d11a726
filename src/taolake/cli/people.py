"""Commands for people's choices: what to ask them, and bringing in what they said."""

from pathlib import Path
from typing import Annotated

import typer

from taolake.cli.common import DEMO, ConfigOption, Opened, RoundOption, brief, load

app = typer.Typer(
    no_args_is_help=True,
    help="""Ask people which answers they prefer, where asking teaches most; or bring in what they said elsewhere.

    \b
    taolake label export --out ask.html      open it in any browser, answer, download the answers
    taolake label import answers.jsonl       then run the round again: it starts over at score
    """,
)


@app.command("export")
def export(
    out: Annotated[Path, typer.Option(help="File to write: .html for a page, .csv for a sheet.")] = Path("ask.html"),
    count: Annotated[int, typer.Option(min=1, help="Groups of answers to ask about.")] = 50,
    answers: Annotated[int, typer.Option(min=2, max=9, help="Answers shown of each.")] = 4,
    annotator: Annotated[str, typer.Option(help="Who will answer; what they answered before is left out.")] = (
        "anonymous"
    ),
    config: ConfigOption = Path(DEMO),
    round_: RoundOption = 1,
) -> None:
    """Write the groups most worth asking about, as a page or a sheet.

    \b
    taolake label export --count 50 --out ask.html
    taolake label export --out ask.csv --annotator reviewer_2 --config conf/mine.yml
    """
    from taolake.report import ask

    with Opened(load(config), round_) as opened:
        asked = ask.export(opened, count, answers, out, annotator)
    typer.echo(f"{out}: {asked} questions. Bring the answers back with `taolake label import FILE`.")


@app.command("import")
def import_(
    source: Annotated[
        str, typer.Argument(help="File of the page or sheet, any file of choices, or mlflow:EXPERIMENT.")
    ],
    config: ConfigOption = Path(DEMO),
    round_: RoundOption = 1,
) -> None:
    """Bring in choices, rankings, pairs, ratings, thumbs and edits; see docs/labels.md for their shapes.

    \b
    taolake label import answers.jsonl
    taolake label import mlflow:my-experiment --config conf/mine.yml
    """
    from taolake import stages
    from taolake.stages import ask, label

    with Opened(load(config), round_) as opened:
        came = (
            ask.import_answers(opened, Path(source)) if Path(source).is_file() else label.import_choices(opened, source)
        )
        reopened = stages.reopen(opened, "score") if came.rows else []
    typer.echo(f"{source}: {came.rows} new preferences, {brief(came.detail)}")
    if reopened:
        typer.echo(f"To be run again with them: {', '.join(reopened)} (`taolake run`).")
