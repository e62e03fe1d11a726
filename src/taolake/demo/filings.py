"""Document questions as a project: reports and policies, what is asked about them, and a tiny model that reads them.

The inputs of `conf/filings.yml`, the second embedded task. Its base is pre-trained on the shop's questions too, so that
both tasks can be tuned together: `beside_shop` makes the shop's inputs for that base. `annotate` stands in for people,
who judge answers by accuracy, and then by relevance.
"""

import functools
import json
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from taolake import demo, ids
from taolake.config import Project
from taolake.demo import filings_data as data
from taolake.demo import model, questions
from taolake.demo.filings_data import Question

CORPUS_SIZE = 40_000
MISTAKE_RATE = 0.05
PAIRS_PER_PROMPT = 4
_SHAPED_BY = (
    "database.py", "families.py", "families.toml", "filings.py", "filings_data.py", "model.py", "questions.py",
)  # fmt: skip


def prepare(project: Project) -> None:
    """Write the log, the review prompts and the labels of the holdout, and pre-train the base of both tasks once."""
    folder = Path(project.ingest.sources[0].path).parent
    stamp = folder / f".{ids.content_hash(_key(project), project.ingest.holdout, project.task.name)}"
    if not stamp.exists():
        write_inputs(folder, project)
        stamp.touch()
    put_base(project)


def beside_shop(project: Project) -> None:
    """Write the inputs of the shop's task, for the base of both."""
    demo.write_inputs(project)
    put_base(project)


def write_inputs(folder: Path, project: Project) -> None:
    """Write logs.jsonl and review.jsonl without labels, and gold.jsonl of the holdout alone."""
    folder.mkdir(parents=True, exist_ok=True)
    logged = data.logged_questions(project.seed)
    held_out = [question for question in logged if demo.is_holdout(project, question.messages)]
    _write(folder / "logs.jsonl", ({"messages": question.messages} for question in logged))
    review = data.review_questions(project.seed)
    _write(folder / "review.jsonl", ({"messages": question.messages} for question in review))
    _write(folder / "gold.jsonl", ({"messages": q.messages, "answer": q.answer} for q in held_out))


def put_base(project: Project) -> None:
    """Pre-train the base of both tasks, once a seed, and copy it to where the project file says."""
    cached = Path(project.work).parents[1] / "cache" / f"filings-{_key(project)}"
    if not cached.exists():
        shop = questions.pretraining_pairs(project.seed, model.CORPUS_SIZE)
        pairs = [*shop, *data.pretraining_pairs(project.seed, CORPUS_SIZE)]
        model.fit(cached, pairs, project.seed, lessons=data.lessons(project.seed))
    demo.put_copy(cached, Path(project.model.path))


def annotate(project: Project, question: str, answers: Sequence[str]) -> list[tuple[int, int]]:
    """What a reviewer with the document in hand chooses, as pairs of (chosen, rejected), now and then by mistake.

    Among the best that is shown: an accurate answer, and where there is none, a relevant one.
    """
    asked = _review_questions(project.seed)[question]
    rng = random.Random(f"{project.seed} {question}")
    worth = [2 * accurate(asked, answer) + relevant(asked, answer) for answer in answers]
    pairs = [(a, b) for a in range(len(answers)) for b in range(len(answers)) if max(worth) == worth[a] > worth[b]]
    picked = rng.sample(pairs, min(PAIRS_PER_PROMPT, len(pairs)))
    return [(b, a) if rng.random() < MISTAKE_RATE else (a, b) for a, b in picked]


def accurate(question: Question, answer: str) -> bool:
    """Whether the answer is the right one."""
    return answer.strip() == question.answer


def relevant(question: Question, answer: str) -> bool:
    """Whether the answer speaks of what was asked, right or not: of its line, or of there being none."""
    if not question.evidence:
        return answer.strip() == data.REFUSAL
    return answer.strip().startswith(f'"{question.evidence}"')


@functools.cache
def _review_questions(seed: int) -> dict[str, Question]:
    return {question.text: question for question in data.review_questions(seed)}


def _key(project: Project) -> str:
    return model.model_key(project.seed, _SHAPED_BY)


def _write(path: Path, records: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
