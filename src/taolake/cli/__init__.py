"""The `taolake` command: thin over the stages, the tables and the card.

Heavy libraries are imported inside the commands, so that `taolake --help` answers at once.
"""

import sys

import typer

from taolake.cli import cost, look, people, rounds, serve, trace, watch
from taolake.cli.common import REFUSED
from taolake.trust import TrustError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="""Make a language model better from the prompts you already log, without labels.

    A round goes from logged prompts to a gated, registered model. Everything is in Delta tables; a killed run goes on
    where it stopped, and a finished one does nothing.

    \b
    taolake demo                      the embedded example, about five minutes on two cores
    taolake check conf/mine.yml       is this project file right?
    taolake run conf/mine.yml         a whole round
    taolake report conf/mine.yml      the proof card of the last round
    taolake trust conf/mine.yml       does its reward agree with people?
    taolake label export              ask people where it teaches most
    taolake collect conf/mine.yml     bring in logs of production, personal data replaced
    taolake plan conf/mine.yml --prompts 20000   what will it cost?
    taolake serve conf/mine.yml       serve it here, and log what is asked
    taolake deploy conf/mine.yml      serve it on Databricks, a canary first
    taolake canary conf/mine.yml      promote it, or take it back
    taolake monitor conf/mine.yml     what its answers look like in production
    taolake flywheel conf/mine.yml    the next round, when enough new prompts are in
    taolake history conf/mine.yml     what each round changed
    """,
)

for command in (
    rounds.demo,
    rounds.run,
    rounds.stage,
    rounds.status,
    rounds.collect,
    look.report,
    look.trust,
    look.check,
    look.tables,
    look.chat,
    serve.serve,
    serve.deploy,
    serve.canary,
    watch.monitor,
    watch.flywheel,
    watch.history,
    cost.plan,
    trace.lineage,
    trace.forget,
    trace.replay,
):
    app.command()(command)
app.add_typer(people.app, name="label")


def main() -> None:
    """Entry point: known problems end with one line and exit code 1, a refused reward with 4, others with a trace."""
    try:
        app()
    except (ValueError, FileNotFoundError, RuntimeError) as error:
        if "--debug" in sys.argv:
            raise
        typer.echo(f"taolake: {error}", err=True)
        raise SystemExit(REFUSED if isinstance(error, TrustError) else 1) from None
