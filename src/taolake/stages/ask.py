"""Ask people: which groups' labels would teach most, and the import of what comes back.

Review prompts are asked about, which nothing trains on; a project without any asks about its training prompts, never
about held-out ones. Two people may be asked the same, so that their agreement can be measured; one person never twice.
Not here: the choice itself (`taolake.selection.ask`), the page (`taolake.report.ask`), `preferences` (`label`).
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taolake import ids, lake
from taolake.config import AgreementScorer, RelevanceScorer
from taolake.curation.asked import Answer, Item, importable, read_lines, read_sheet, wrong
from taolake.engines import encoder
from taolake.scoring.clusters import answer_keys
from taolake.selection.ask import Option, bag_of_words, choose_answers, choose_groups, uncertainty
from taolake.stages import groups, label, reward, score
from taolake.stages.round import Outcome, Round
from taolake.types import Message

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_POOL = 5000  # prompts looked at, a fixed draw by their ids; more would only make the driver wait
_SHORTLIST = 4  # groups whose answers are embedded for their meaning, per group wanted
_SIMILARITY = 0.85


@dataclasses.dataclass(frozen=True)
class Group:
    """A prompt and its distinct answers."""

    prompt_id: str
    messages: list[Message]
    options: list[Option]

    @property
    def question(self) -> str:
        """The last user turn."""
        return self.messages[-1]["content"]


def questions(round_: Round, count: int, answers: int, annotator: str = "anonymous") -> list[Item]:
    """The groups most worth asking this person about, most worth first.

    Args:
        round_: its base policy's candidates are asked about, with their scores and rewards as far as there are any.
        count: groups wanted; there are fewer where no more are worth asking.
        answers: answers shown of each, at most.
        annotator: what they answered before is left out, and so is what lies close to it.

    Raises:
        ValueError: fewer than 1 group, fewer than 2 answers or more than 9 (keys are digits), or nothing left to ask.
    """
    if count < 1 or not 2 <= answers <= 9:
        raise ValueError(f"got {count} groups of {answers} answers, wanted 1 group or more, and 2 to 9 answers")
    pool, before = _pool(round_, annotator)
    chosen = _choose(round_, pool, before, count)
    if not chosen:
        raise ValueError(
            f"nothing is left to ask {annotator!r}: {len(pool)} prompts with answers are open to them, and none has "
            "answers that differ; run `generate` for more, or ask someone else"
        )
    return [_item(round_, group, answers, annotator) for group in chosen]


def read_answers(path: Path) -> list[dict[str, Any]]:
    """Read what the page (`.jsonl`) or the sheet (`.csv`) gave back: records as `taolake.curation.asked` says."""
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("cp1252", errors="replace")  # what a spreadsheet writes that was told nothing
    return read_sheet(text) if path.suffix == ".csv" else read_lines(text)


def import_answers(round_: Round, path: Path) -> Outcome:
    """Import what the page or the sheet gave back; again adds nothing. Other files of choices go to `label` as is.

    The records are kept in the work folder, those that chose nothing too: the next export leaves them out.
    """
    if not _is_ours(path):
        return label.import_choices(round_, str(path))
    records = read_answers(path)
    refused = [r for r in records if r["kind"] == "refused"]
    kept = [r for r in records if r["kind"] != "refused"]
    _refuse(round_, path, refused)
    folder = _folder(round_)
    folder.mkdir(parents=True, exist_ok=True)
    name = ids.content_hash("answers", kept)
    _write_lines(folder / f"{name}.records.jsonl", kept)
    choices = importable(kept)
    places = Counter(r["order"].index(r["chosen"]) + 1 for r in kept if r.get("chosen"))
    found = {"answers": len(records), "unreadable": len(refused), "chosen_at": dict(sorted(places.items()))}
    found["chose_nothing"] = sum(r["kind"] == "best_of" and r["chosen"] is None for r in kept)
    if not choices:
        return Outcome(0, 0, {"source": str(path), **found})
    lines = (folder / f"{name}.choices.jsonl").resolve()
    _write_lines(lines, choices)
    done = label.import_choices(round_, str(lines))
    return Outcome(done.rows, done.tokens, {**done.detail, "source": str(path), **found})


def answered(round_: Round, annotator: str) -> set[str]:
    """Prompts this person has said something about, be it that they cannot tell."""
    from pyspark.sql import functions as f

    said = round_.lake.read(lake.PREFERENCES).where(f.col("annotator") == annotator).select("prompt_id").distinct()
    found = {row["prompt_id"] for row in said.collect()}
    for file in sorted(_folder(round_).glob("*.records.jsonl")):
        records = map(json.loads, file.read_text(encoding="utf-8").splitlines())
        found |= {r["prompt_id"] for r in records if r["annotator"] == annotator}
    return found


def _pool(round_: Round, annotator: str) -> tuple[list[Group], list[str]]:
    """Groups this person could be asked about, by prompt id, and the questions they answered before."""
    from pyspark.sql import functions as f

    prompts = round_.lake.read(lake.PROMPTS).where(f.col("task") == round_.project.task.name)
    split = "review" if prompts.where(f.col("split") == "review").limit(1).count() else "train"
    done = round_.lake.spark.createDataFrame([(p,) for p in sorted(answered(round_, annotator))], "prompt_id STRING")
    mine = prompts.where(f.col("split") == split)
    given = round_.lake.read(lake.CANDIDATES).where((f.col("policy") == round_.base.id) & (f.col("stream") != "G"))
    given = given.where((f.col("status") == "ok") & f.col("text").rlike(r"\S"))
    given = given.select("prompt_id", "candidate_id", "text")
    open_ = mine.join(done, "prompt_id", "left_anti").join(given, "prompt_id", "left_semi")
    some = open_.orderBy("prompt_id").limit(_POOL).select("prompt_id", "messages")
    answers = given.join(some, "prompt_id").groupBy("prompt_id", "messages", "text")
    first = answers.agg(f.min("candidate_id").alias("candidate_id"), f.count("*").alias("count"))
    told = _told(round_)
    options = f.collect_list(f.struct("candidate_id", "text", "count", "reward", "scores")).alias("options")
    rows = first.join(told, "candidate_id", "left").groupBy("prompt_id", "messages").agg(options)
    pool = [
        Group(row["prompt_id"], [m.asDict() for m in row["messages"]], [_option(round_, o) for o in row["options"]])
        for row in rows.orderBy("prompt_id").collect()
    ]
    asked = mine.join(done, "prompt_id").select(f.element_at("messages", -1)["content"].alias("question"))
    return pool, sorted(row["question"] for row in asked.collect())


def _told(round_: Round) -> "DataFrame":
    """Reward and scores of the base policy's candidates, of the current versions, as far as there are any."""
    from pyspark.sql import functions as f

    spark, policy = round_.lake.spark, round_.base
    current = spark.createDataFrame(list(score.versions(round_).items()), "scorer STRING, prefix STRING")
    member = groups.sampled(round_, policy).select("candidate_id", "group")
    scores = round_.lake.read(lake.SCORES).join(f.broadcast(current), "scorer").join(member, "candidate_id", "left")
    right = f.col("scorer_version").isin(f.col("prefix"), f.concat_ws("@", "prefix", "group"))
    word = f.collect_list(f.struct("scorer", "value", "answer_key")).alias("scores")
    said = scores.where(right).groupBy("candidate_id").agg(word)
    rewards = reward.current(round_, policy).select("candidate_id", "reward")
    return said.join(rewards, "candidate_id", "full")


def _option(round_: Round, row: Any) -> Option:
    scores = row["scores"] or []
    means = _meaning_scorer(round_)
    meaning = next((s["answer_key"] for s in scores if s["scorer"] == means), None)
    values = {s["scorer"]: s["value"] for s in scores if s["value"] is not None}
    return Option(row["candidate_id"], row["text"], meaning, row["reward"], values, row["count"])


def _meaning_scorer(round_: Round) -> str | None:
    """The scorer whose answer keys say which answers mean the same."""
    over = round_.project.reward.pool_over
    return over or next((s.name for s in round_.project.scorers if isinstance(s, AgreementScorer)), None)


def _choose(round_: Round, pool: Sequence[Group], before: Sequence[str], count: int) -> list[Group]:
    """The groups most worth asking, in the order of picking."""
    seed, found = round_.project.seed, _encoder(round_)
    if found is None:
        vectors = bag_of_words([g.question for g in pool] + list(before))
    else:
        vectors = found[0].encode([g.question for g in pool] + list(before))
    here, asked = vectors[: len(pool)], vectors[len(pool) :]

    def pick(some: Sequence[Group], rows: Any, wanted: int) -> list[int]:
        weights = [uncertainty(g.options) for g in some]
        return choose_groups([g.prompt_id for g in some], weights, rows, wanted, seed, asked)

    unmeant = {g.prompt_id for g in pool if not any(o.meaning for o in g.options)}
    if found is None or not unmeant:
        return [pool[i] for i in pick(pool, here, count)]
    # No scorer has said yet what some answers mean: embed those of a shortlist.
    short = pick(pool, here, _SHORTLIST * count)
    meant = [_with_meaning(pool[i], *found) if pool[i].prompt_id in unmeant else pool[i] for i in short]
    return [meant[i] for i in pick(meant, here[short], count)]


def _with_meaning(group: Group, model: "encoder.Encoder", similarity: float) -> Group:
    """The group with answers clustered by their embeddings."""
    names = [o.candidate_id for o in group.options]
    vectors = dict(zip(names, model.encode([o.text for o in group.options]), strict=True))
    keys = answer_keys(group.prompt_id, names, vectors, similarity)
    options = [dataclasses.replace(o, meaning=key) for o, key in zip(group.options, keys, strict=True)]
    return dataclasses.replace(group, options=options)


def _encoder(round_: Round) -> "tuple[encoder.Encoder, float] | None":
    """The project's encoder and the cosine above which answers mean the same; None where no scorer has one."""
    for spec in round_.project.scorers:
        if isinstance(spec, AgreementScorer | RelevanceScorer) and spec.encoder:
            similarity = spec.similarity if isinstance(spec, AgreementScorer) else _SIMILARITY
            return encoder.load(spec.encoder, encoder.encoder_id(spec.encoder)), similarity
    return None


def _item(round_: Round, group: Group, answers: int, annotator: str) -> Item:
    """A question as it is shown: its answers in a random order, another one for everybody."""
    shown = choose_answers(group.options, answers, round_.project.seed)
    about = ("order", round_.project.seed, annotator, group.prompt_id)
    shown.sort(key=lambda o: ids.unit_interval(*about, o.candidate_id))
    texts: list[Answer] = [{"candidate_id": o.candidate_id, "text": o.text} for o in shown]
    return {"prompt_id": group.prompt_id, "messages": group.messages, "answers": texts}


def _is_ours(path: Path) -> bool:
    """Whether a file came from our page or sheet; others' choices have no prompt ids of ours."""
    if path.suffix not in (".csv", ".jsonl") or not path.is_file():
        return False
    first = next((line for line in path.read_bytes().splitlines() if line.strip()), b"").decode("utf-8-sig", "replace")
    if path.suffix == ".csv":
        return first.lstrip('"').startswith("prompt_id") and "answer_1" in first
    try:
        return wrong(json.loads(first)) is None
    except (ValueError, RecursionError):  # not ours, and `label` says what is wrong with it
        return False


def _refuse(round_: Round, path: Path, refused: Sequence[Mapping[str, Any]]) -> None:
    rows = [("label", f"{path.name}:{r['row']}", r["reason"], "") for r in refused]
    if rows:
        schema = lake.QUARANTINE.schema()
        round_.lake.insert_new(lake.QUARANTINE, round_.lake.spark.createDataFrame(rows, schema))


def _folder(round_: Round) -> Path:
    return Path(round_.project.work) / "answers"


def _write_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
