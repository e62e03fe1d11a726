"""The command that says beforehand what a round will cost."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from taolake.cli.common import ConfigArgument, Opened, RoundOption, fail, load

if TYPE_CHECKING:
    from taolake.cost import Speeds
    from taolake.stages.round import Round


def plan(
    config: ConfigArgument,
    prompts: Annotated[int, typer.Option(min=1, help="Prompts that are logged, without those for review.")],
    target: Annotated[str, typer.Option(help="local, or databricks to count DBUs too.")] = "local",
    review: Annotated[int, typer.Option(min=0, help="Prompts for review.")] = 0,
    prompt_tokens: Annotated[float, typer.Option(min=1, help="Tokens of a mean prompt.")] = 300,
    answer_tokens: Annotated[
        float | None, typer.Option(min=1, help="Of a mean answer.", show_default="recorded")
    ] = None,
    generate_speed: Annotated[
        float | None, typer.Option(min=0, help="Tokens a second of one engine.", show_default="recorded")
    ] = None,
    train_speed: Annotated[
        float | None, typer.Option(min=0, help="Tokens a second of the trainer.", show_default="recorded")
    ] = None,
    dbu_per_gpu_hour: Annotated[
        float | None, typer.Option(min=0, help="DBUs of a GPU node an hour.", show_default="cost.dbu_per_gpu_hour")
    ] = None,
    round_: RoundOption = 1,
) -> None:
    """Say what a round will cost: tokens, GPU-hours and DBUs, from the speeds of a finished round.

    \b
    taolake plan conf/mine.yml --prompts 20000
    taolake plan conf/mine.yml --prompts 20000 --target databricks --generate-speed 2500 --train-speed 3000 \\
        --answer-tokens 400
    """
    from taolake import cost

    if target not in ("local", "databricks"):
        raise fail(f"got target {target!r}, wanted local or databricks")
    project = load(config)
    known = cost.Speeds(generate_speed or 0, train_speed or 0, answer_tokens or 0)
    speeds = known if all(known) else _recorded(config, round_, known)
    dbu = project.cost.dbu_per_gpu_hour if dbu_per_gpu_hour is None else dbu_per_gpu_hour
    inputs = cost.Inputs(prompts, review, prompt_tokens, speeds, dbu)
    lines = cost.expected(project, inputs)
    typer.echo(
        f"from {prompts} prompts and {review} for review, {prompt_tokens:g} tokens each, answers of "
        f"{speeds.answer_tokens:g}; an engine writes {speeds.generate:g} tokens a second, {project.engine.devices} at "
        f"once, the trainer reads {speeds.train:g}"
    )
    for line in lines:
        typer.echo(
            f"{line.stage:9} {line.tokens / 1e6:10.2f} M tokens {line.gpu_hours:8.2f} GPU-hours {line.hours:8.2f} h"
        )
    total = sum(line.gpu_hours for line in lines)
    typer.echo(f"{'all':9} {sum(line.tokens for line in lines) / 1e6:10.2f} M tokens {total:8.2f} GPU-hours")
    if target == "databricks":
        typer.echo(
            f"{total * dbu:.1f} DBUs at {dbu:g} for a GPU-hour; the start of clusters and CPU stages come on top"
        )
    limit = project.cost.max_dollars
    stop = "" if limit is None else f"; the round stops at {limit:.2f} and can be resumed"
    typer.echo(f"{cost.dollars(project, lines):.2f} dollars at {project.cost.dollars_per_hour:g} an hour{stop}")


def _recorded(config: Path, number: int, known: "Speeds") -> "Speeds":
    """Speeds of a finished round, where none are given."""
    from taolake.cost import Speeds

    project = load(config)
    if not Path(project.lake).is_dir():
        raise fail(
            f"no tables in {project.lake} here to take speeds from; give --generate-speed, --train-speed and "
            "--answer-tokens, which `rounds` has of any finished round"
        )
    with Opened(project, number) as opened:
        found = measured(opened)
    return Speeds(*(given or recorded for given, recorded in zip(known, found, strict=True)))


def measured(opened: "Round") -> "Speeds":
    """What a finished round recorded of itself.

    Raises:
        ValueError: its candidates were all there before it began, so it has no speed.
    """
    from taolake.cost import Speeds

    generate, train = opened.done("generate", current=False), opened.done("train", current=False)
    if not generate.detail["tokens_per_s"]:
        raise ValueError(f"round {opened.number} generated nothing of its own; name a round that did")
    return Speeds(
        generate.detail["tokens_per_s"] / opened.project.engine.devices,
        train.tokens / train.seconds,
        generate.tokens / generate.detail["candidates"],
    )
