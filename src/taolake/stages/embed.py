"""Scores from sentence embeddings: relevance of one answer, and agreement of a group's free-text answers.

Encoders run on the CPU, one a task: a GPU belongs to the generating engine, which keeps its memory while it rests.
Relevance is a weak signal on its own (an answer that repeats the question is close to it): weigh it beside another.
Not here: the encoder (`taolake.engines.encoder`), what a cluster is (`taolake.scoring.clusters`).
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from taolake import ids
from taolake.config import AgreementScorer, RelevanceScorer
from taolake.engines.encoder import Encoder, Vectors, encoder_id, load
from taolake.scoring.agreement import agreement, entropy
from taolake.scoring.clusters import answer_keys
from taolake.stages import groups, scored
from taolake.stages.fanout import Row
from taolake.stages.round import Round
from taolake.types import Policy, Score

_BUFFER_ROWS = 512  # candidates looked at together for equal texts: a prompt's are neighbours
_BUFFER_GROUPS = 32


def version(spec: RelevanceScorer | AgreementScorer) -> str:
    """Hash of the spec and of the encoder's bytes, wherever the folder lies; 12 hex digits.

    Raises:
        ValueError: the spec has no encoder.
    """
    if spec.encoder is None:
        raise ValueError(f"scorer {spec.name!r} has no `encoder`; agreement `over` a scorer is no matter of embeddings")
    return ids.content_hash("embed", spec.model_dump(mode="json", exclude={"encoder"}), encoder_id(spec.encoder))[:12]


def relevance(round_: Round, policy: Policy, spec: RelevanceScorer, version: str) -> int:
    """Score the candidates that have no relevance of this version; returns how many those were."""
    name, path, bytes_ = spec.name, spec.encoder, encoder_id(spec.encoder)

    def run(rows: Iterator[Row]) -> Iterator[Row]:
        encoder = load(path, bytes_, "cpu")
        while some := list(itertools.islice(rows, _BUFFER_ROWS)):
            for candidate, given in zip(some, relevances(some, spec, encoder), strict=True):
                yield scored.row(candidate, name, version, given)

    todo = scored.todo(round_, policy, name, version)
    return scored.append(round_, todo, run, name, version, round_.lake.spark.sparkContext.defaultParallelism)


def semantic_agreement(round_: Round, policy: Policy, spec: AgreementScorer, version: str) -> int:
    """Score the groups that have no agreement of this version; returns how many those were."""
    name, path, similarity = spec.name, spec.encoder or "", spec.similarity
    bytes_ = encoder_id(path)

    def run(rows: Iterator[Row]) -> Iterator[Row]:
        encoder = load(path, bytes_, "cpu")
        while some := list(itertools.islice(rows, _BUFFER_GROUPS)):
            texts = {m["text"] for group in some for m in group["members"] if _answered(m)}
            known = _windows(encoder, texts)
            for group in some:
                for member, given in agreements(group, known, similarity):
                    yield scored.row(group | member, name, group["scorer_version"], given)

    columns = ("candidate_id", "status", "text")
    todo = scored.groups_todo(round_, name, version, groups.sampled(round_, policy), *columns)
    tasks = round_.lake.spark.sparkContext.defaultParallelism
    return scored.append(round_, todo, run, name, version, tasks, "prompt_id", "scorer_version")


def relevances(candidates: Sequence[Row], spec: RelevanceScorer, encoder: Encoder) -> list[Score]:
    """Score each candidate: (1 + cosine) / 2 of the whole answer against the best window of what it should be about.

    A question or document longer than the encoder's window counts by its best window: the answer need only be about
    a part of it. With `both`, a conversation without system turns is judged by its question alone, and says so.
    """
    answered = [c for c in candidates if _answered(c)]
    about = {id(c): _about(c, spec) for c in answered}
    wanted = {t for found in about.values() for texts in found.values() for t in texts}
    known = _windows(encoder, wanted | {c["text"] for c in answered})
    return [_relevance(c, about.get(id(c)), known) for c in candidates]


def agreements(group: Row, known: Mapping[str, Vectors], similarity: float) -> Iterator[tuple[Row, Score]]:
    """Each member of a group with the share of answered members that mean the same as it.

    Args:
        group: `prompt_id`, and `members` with candidate_id, status and text.
        known: windows of every answer's text; an answer is the direction of their mean.
        similarity: cosine above which two answers mean the same.
    """
    members: list[Row] = sorted(group["members"], key=lambda m: m["candidate_id"])
    vectors = {m["candidate_id"]: _direction(known[m["text"]]) for m in members if _answered(m)}
    keys = answer_keys(group["prompt_id"], [m["candidate_id"] for m in members], vectors, similarity)
    facts = {"clusters": len(set(keys) - {None}), "entropy": round(entropy(keys), 6)}
    for member, key, share in zip(members, keys, agreement(keys), strict=True):
        if share is None:
            yield member, Score(None, "abstain", detail={"error": "no answer"})
        else:
            yield member, Score(share, "ok", key, facts)


def _relevance(candidate: Row, about: Mapping[str, list[str]] | None, known: Mapping[str, Vectors]) -> Score:
    if about is None:
        return Score(None, "abstain", detail={"error": candidate["error"] or "no answer"})
    answer = _direction(known[candidate["text"]])
    cosines = {
        name: max(float((known[text] @ answer).max()) for text in texts) for name, texts in about.items() if texts
    }
    if not cosines:
        return Score(None, "abstain", detail={"error": "the conversation has no text to be relevant to"})
    cosine = sum(cosines.values()) / len(cosines)
    return Score(min(1.0, max(0.0, (1 + cosine) / 2)), detail={name: round(c, 6) for name, c in cosines.items()})


def _about(candidate: Row, spec: RelevanceScorer) -> dict[str, list[str]]:
    """Texts an answer should be about, by `question` and `documents` as far as the spec wants them."""
    said = {role: [m["content"] for m in candidate["messages"] if m["role"] == role] for role in ("user", "system")}
    found = {"question": said["user"][-1:], "documents": said["system"]}
    return {name: [t for t in texts if t.strip()] for name, texts in found.items() if spec.against in (name, "both")}


def _answered(candidate: Row) -> bool:
    return candidate["status"] == "ok" and bool((candidate["text"] or "").strip())


def _windows(encoder: Encoder, texts: set[str]) -> dict[str, Vectors]:
    """Each text once, in a fixed order: equal texts get equal vectors, to the last bit."""
    order = sorted(texts)
    return dict(zip(order, encoder.windows(order), strict=True))


def _direction(windows: Vectors) -> Vectors:
    mean = windows.mean(axis=0)
    direction: Vectors = mean / max(float(np.linalg.norm(mean)), 1e-12)
    return direction
