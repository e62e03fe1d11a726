"""The embedded example: a shop database, questions in plain English, and a tiny model that writes its SQL.

It is not a benchmark: it is the smallest setting in which every stage of taolake does real work on two CPU cores.
`conf/demo.yml` names the two functions here: one makes the inputs of a round, the other stands in for people.
"""

import functools
import random
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taolake import ids
from taolake.config import Project, SqlScorer

if TYPE_CHECKING:
    from taolake.demo.questions import Question


def prepare(project: Project) -> None:
    """Write the log, the database and the labels of the holdout, and pre-train the base model once."""
    from taolake.demo import model

    write_inputs(project)
    cached = Path(project.work).parents[1] / "cache" / f"model-{model.model_key(project.seed)}"
    if not cached.exists():
        model.pretrain(cached, project.seed)
    put_copy(cached, Path(project.model.path))


def write_inputs(project: Project) -> None:
    """Write everything but the model; what exists is not made again."""
    from taolake.demo import assets, model

    data = Path(project.ingest.sources[0].path).parent
    stamp = data / f".{ids.content_hash(model.model_key(project.seed), project.ingest.holdout, project.task.name)}"
    if not stamp.exists():
        assets.write_assets(data, project.seed, functools.partial(is_holdout, project))
        stamp.touch()


def is_holdout(project: Project, messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether ingest will hold this prompt out."""
    turns = [{"role": m["role"], "content": m["content"]} for m in messages]
    prompt = ids.prompt_id(project.task.name, turns)  # type: ignore[arg-type]
    return ids.split_of(prompt, project.seed, project.ingest.holdout) == "holdout"


def put_copy(cached: Path, folder: Path) -> None:
    """Put a model where the project file says, unless it is there."""
    if not folder.exists() or ids.file_hash(folder) != ids.file_hash(cached):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(cached, folder)


def annotate(project: Project, question: str, answers: Sequence[str]) -> list[tuple[int, int]]:
    """What the simulated reviewer chooses among answers to a review question, as pairs."""
    from taolake.demo.reviewer import review

    return review(_review_questions(project.seed)[question], answers, _database(project), _rng(project, question))


def choose(project: Project, question: str, answers: Sequence[str]) -> list[tuple[int, list[int]]]:
    """The same reviewer, asked for the best of all answers at once: it and the others."""
    from taolake.demo.reviewer import choose as best

    return best(_review_questions(project.seed)[question], answers, _database(project), _rng(project, question))


def _database(project: Project) -> Path:
    return next(Path(s.database) for s in project.scorers if isinstance(s, SqlScorer))


def _rng(project: Project, question: str) -> random.Random:
    return random.Random(f"{project.seed} {question}")


@functools.cache
def _review_questions(seed: int) -> "dict[str, Question]":
    from taolake.demo.questions import review_questions
    from taolake.demo.reviewer import questions_by_text

    return questions_by_text(review_questions(seed))
