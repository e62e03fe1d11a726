"""What the commands share: reading the project file, opening a round on a local session, saying what a stage did."""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from taolake.config import Project
    from taolake.stages.round import Round

DEMO = "conf/demo.yml"
REFUSED = 4  # exit code of a round whose reward may not train
MASTER = "TAOLAKE_MASTER"  # environment variable: Spark master URL; a local session without it
ConfigArgument = Annotated[Path, typer.Argument(help="Project file, see docs/config.md.", show_default=True)]
ConfigOption = Annotated[Path, typer.Option(help="Project file.")]
RoundOption = Annotated[int, typer.Option("--round", min=1, help="Round number.")]


def load(config: Path) -> "Project":
    """Read a project file, or end the command with what is wrong in it."""
    from taolake.config import load

    if not config.exists():
        raise fail(f"no project file {config}; start from conf/template.yml")
    try:
        return load(config)
    except ValueError as error:
        raise fail(str(error)) from None


def load_usable(config: Path) -> "Project":
    """Read a project file that is to be run: the functions it names are imported too, or the command ends."""
    from taolake.scoring.function import require

    project = load(config)
    try:
        require(project.functions)
    except ValueError as error:
        raise fail(f"{config}: {error}") from None
    return project


def fail(text: str) -> typer.Exit:
    """Say what is wrong with the call; the exit code is 2."""
    typer.echo(f"taolake: {text}", err=True)
    return typer.Exit(2)


class Opened:
    """A round on a session of this machine, or of the cluster that `TAOLAKE_MASTER` names; stopped at the end.

    The session starts when it is first needed: a round with nothing left to do needs none.
    """

    def __init__(self, project: "Project", number: int) -> None:
        self._project, self._number = project, number
        self._spark: SparkSession | None = None

    def __enter__(self) -> "Round":
        from taolake.lake import Lake
        from taolake.stages import base
        from taolake.stages.round import Round

        project = base.project_of(self._project, self._number)
        return Round(Lake(self._session, project.lake), project, self._number)

    def __exit__(self, *error: object) -> None:
        if self._spark is not None:
            self._spark.stop()

    def _session(self) -> "SparkSession":
        from taolake.session import local_session

        if self._spark is None:
            # One slot more than engines hold, in which a chunk is committed while the next one is answered.
            master = os.environ.get(MASTER) or f"local[{max(2, self._project.engine.devices + 1)}]"
            self._spark = local_session(master, log=Path(self._project.work) / "spark.log")
        return self._spark


def say(name: str, detail: dict[str, object], ran: bool) -> None:
    """One line for a stage."""
    typer.echo(f"{name:10} {'done' if ran else 'was done'}  {brief(detail)}")


def brief(detail: dict[str, object]) -> str:
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


def report_folder(project: "Project") -> Path:
    """Where the proof card of a project lies."""
    return Path(project.work).parent / "report"
