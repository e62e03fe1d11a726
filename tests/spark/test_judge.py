"""Judges through Spark and Delta, against a server that misbehaves: nothing is lost, nothing is paid twice."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as f

from taolake import ids, lake
from taolake.config import JudgeScorer, MlflowJudgeScorer
from taolake.scoring import judge as questions
from taolake.stages import calls, judge
from taolake.stages.round import Round
from taolake.types import Policy
from tests.projects import fake_project, open_round
from tests.unit.test_endpoint import KEY, Reply, Server, chat

POLICY = Policy("9" * 32, "no-model")
ANSWER = re.compile(r"<answer-(\w{8})(?: id='(\w+)')?>\n(.*?)\n</answer-\1>", re.DOTALL)


@pytest.fixture
def serve(spark: SparkSession) -> Iterator[Callable[..., Server]]:
    """Start servers; the workers of these tests are told the key, and no proxy stands between."""
    environment, started = spark.sparkContext.environment, list[Server]()
    environment |= {"TAOLAKE_ENDPOINT_KEY": KEY, "OPENAI_API_KEY": KEY, "NO_PROXY": "*"}

    def start(answer: Callable[[dict[str, Any], int], Reply]) -> Server:
        started.append(Server(answer))
        return started[-1]

    yield start
    for name in ("TAOLAKE_ENDPOINT_KEY", "OPENAI_API_KEY", "OPENAI_API_BASE", "NO_PROXY"):
        environment.pop(name, None)
    for each in started:
        each.server.shutdown()
        each.server.server_close()


def shown(body: dict[str, Any]) -> list[tuple[str, str]]:
    """Labels and texts of the answers that a question shows."""
    return [(label, text) for _, label, text in ANSWER.findall(body["messages"][-1]["content"])]


def filled(spark: SparkSession, folder: Path, *groups_: list[str | None]) -> Round:
    """A round with one prompt per group and one sampled candidate per text; None: nothing could be taken out."""
    round_ = open_round(spark, fake_project(folder))
    prompts, candidates = [], []
    for number, texts in enumerate(groups_):
        name = ids.prompt_id("count", [{"role": "user", "content": f"question {number}"}])
        talk = [{"role": "user", "content": f"question {number}"}]
        prompts.append({"prompt_id": name, "task": "count", "messages": talk, "split": "train"})
        candidates += [candidate(name, sample, text) for sample, text in enumerate(texts)]
    write(round_, lake.PROMPTS, prompts)
    write(round_, lake.CANDIDATES, candidates)
    return round_


def candidate(prompt: str, sample: int, text: str | None) -> dict[str, Any]:
    name = ids.candidate_id(prompt, POLICY.id, "plain", sample)
    row = {"candidate_id": name, "prompt_id": prompt, "policy": POLICY.id, "strategy": "plain", "sample": sample}
    if text == "no engine":
        return row | {"stream": "A", "status": "error", "error": "boom", "text": None}
    return row | {"stream": "A", "status": "ok", "error": "", "text": text}


def write(round_: Round, table: lake.Table, rows: list[dict[str, Any]]) -> None:
    blank = dict.fromkeys(table.schema().names)
    frame = round_.lake.spark.createDataFrame([blank | row for row in rows], table.schema())
    round_.lake.append_once(table, frame, ids.content_hash(rows))


def spec(server: Server, **changes: Any) -> JudgeScorer:
    engine = {"kind": "endpoint", "url": server.url, "model": "m", "concurrency": 4, "retries": 1, "timeout_s": 1.5}
    settings = {"kind": "judge", "name": "good", "judges": [engine], "rubric": "Right.", "max_tokens": 40}
    return JudgeScorer.model_validate(settings | changes)


def fill(round_: Round, scorer: JudgeScorer | MlflowJudgeScorer) -> tuple[int, dict[str, Any]]:
    return judge.fill(round_, POLICY, scorer, questions.version(scorer, round_.project.task))


def scores(round_: Round) -> dict[str, Any]:
    """Score rows by the candidate's text; every candidate has exactly one."""
    texts = {r["candidate_id"]: r["text"] or r["error"] for r in round_.lake.read(lake.CANDIDATES).collect()}
    rows = round_.lake.read(lake.SCORES).collect()
    assert sorted(r["candidate_id"] for r in rows) == sorted(texts)
    return {texts[r["candidate_id"]]: r for r in rows}


def judgements(round_: Round) -> list[Any]:
    """Rows of the cache; its key holds."""
    rows = round_.lake.read(lake.JUDGEMENTS).collect()
    assert len({r["call_id"] for r in rows}) == len(rows)
    return rows


def assert_no_key(round_: Round) -> None:
    for table in (lake.JUDGEMENTS, lake.SCORES):
        assert KEY not in "".join(round_.lake.read(table).toJSON().collect())


def test_every_misbehaviour_is_one_explained_row_and_nothing_is_paid_twice(
    spark: SparkSession, tmp_path: Path, serve: Callable[..., Server]
) -> None:
    held = threading.Event()
    after = {"Retry-After": "0.1"}

    def answer(body: dict[str, Any], times: int) -> Reply:
        match shown(body)[0][1].split()[0]:
            case "fine":
                return chat('{"reason": "r", "score": 4}')
            case "broken":
                return chat('{"reason": "r", "score": }')
            case "nine":
                return chat('```json\n{"score": 9,}\n```')
            case "refused":
                return chat("I cannot help with that.")
            case "busy":
                return (429, after, b"slow down") if times == 1 else chat("Score: 5")
            case "crash":
                return 500, {}, f"failed on Bearer {KEY}".encode()
            case "echo":
                return chat(f"Bearer {KEY}")
            case "empty":
                return 200, {}, b""
            case "huge":
                return 200, {}, b"x" * (9 * 2**20)
            case "long":
                return chat("x" * 30_000)
            case "silent":
                held.wait(30)
                return 503, {}, b""
        raise AssertionError(body)

    wanted = {
        "fine": (0.75, "ok", None),
        "busy": (1.0, "ok", None),
        "broken": (None, "error", "no score in the reply"),
        "nine": (None, "error", "got the score 9, wanted 1 to 5"),
        "refused": (None, "error", "no score in the reply 'I cannot help with that.'"),
        "crash": (None, "error", "gave up after 2 tries: HTTP 500: failed on Bearer [key]"),
        "echo": (None, "error", "no score in the reply 'Bearer [key]'"),
        "empty": (None, "error", "not a chat completion (JSONDecodeError)"),
        "huge": (None, "error", "not a reply: got more than 8388608 bytes"),
        "long": (None, "error", "got a reply of 30000 characters, wanted at most 20000"),
        "silent": (None, "error", "no answer within 1.5 s; booked at its upper bound"),
        "boom": (None, "error", "no candidate: boom"),
    }
    server = serve(answer)
    texts = [name for name in wanted if name != "boom"]
    round_ = filled(spark, tmp_path, [*texts, "no engine"], ["fine", "fine too", None])
    rows, detail = fill(round_, spec(server, dollars_per_million=(1.0, 1.0)))
    found = scores_by_prefix(round_)
    for name, (value, status, error) in wanted.items():
        row = found[name]
        assert (row["value"], row["status"]) == (value, status), name
        assert error is None or error in json.loads(row["detail"])["error"], name
    assert rows == len(texts) + 4 == round_.lake.read(lake.SCORES).count()
    assert detail["calls"] == len(texts) + 2
    assert set(server.paid.values()) <= {0, 1}
    assert_no_key(round_)
    kept = {r["status"] for r in judgements(round_)}
    assert kept == {"ok", "error", "timeout"}
    asked = len(server.seen)
    again, detail = fill(round_, spec(server))
    assert (again, detail["calls"], len(server.seen)) == (0, 0, asked)
    held.set()


def scores_by_prefix(round_: Round) -> dict[str, Any]:
    """Score rows by the first word of the candidate's text or error; the first prompt's."""
    texts = {r["candidate_id"]: r["text"] or r["error"] for r in round_.lake.read(lake.CANDIDATES).collect()}
    rows = round_.lake.read(lake.SCORES).collect()
    assert sorted(r["candidate_id"] for r in rows) == sorted(texts)
    assert {r["value"] for r in rows if texts[r["candidate_id"]] == ""} == {0.0}
    return {texts[r["candidate_id"]].split()[0]: r for r in rows if texts[r["candidate_id"]]}


@pytest.mark.slow
def test_a_server_that_is_down_stops_the_stage_and_costs_no_scores(
    spark: SparkSession, tmp_path: Path, serve: Callable[..., Server]
) -> None:
    up = [False]
    server = serve(lambda body, times: chat("4") if up[0] else (401, {}, b"who are you, " + KEY.encode()))
    round_ = filled(spark, tmp_path, [f"answer {i}" for i in range(30)])
    with pytest.raises(calls.JudgeDownError, match=r"judge 'm' of scorer 'good' answered none of 30 calls \(HTTP 401;"):
        fill(round_, spec(server))
    assert round_.lake.read(lake.SCORES).count() == 0
    up[0] = True
    rows, detail = fill(round_, spec(server))
    assert (rows, detail["calls"], detail["cached"]) == (30, 30, 0)
    assert {r["value"] for r in scores(round_).values()} == {0.75}
    states = sorted((r["status"], "!" in r["call_id"]) for r in judgements(round_))
    assert states == [("error", True)] * 30 + [("ok", False)] * 30
    assert set(server.paid.values()) == {1}


@pytest.mark.slow
def test_a_budget_is_never_passed_and_a_higher_one_continues(
    spark: SparkSession, tmp_path: Path, serve: Callable[..., Server]
) -> None:
    reply = {"choices": [{"message": {"content": "4"}}], "usage": {"prompt_tokens": 400, "completion_tokens": 10}}
    server = serve(lambda body, times: (200, {}, json.dumps(reply).encode()))
    round_ = filled(spark, tmp_path, *[[f"answer {g} {i}" for i in range(5)] for g in range(8)])
    price = (10.0, 100.0)  # 0.005 dollars a call, as it turns out
    with pytest.raises(
        calls.BudgetError, match=r"has spent 0\.0\d+ of 0\.1 dollars and \d+ tokens in round 1 and stopped"
    ):
        fill(round_, spec(server, dollars_per_million=price, max_dollars=0.1))
    first = sum(r["dollars"] for r in judgements(round_))
    scored = round_.lake.read(lake.SCORES).count()
    assert 0.05 < first <= 0.1
    assert first == pytest.approx(0.005 * len(server.seen))
    assert 0 < scored <= len(server.seen) < 40
    with pytest.raises(calls.BudgetError):  # a stopped scorer has not forgotten what it spent
        fill(round_, spec(server, dollars_per_million=price, max_dollars=0.1))
    assert sum(r["dollars"] for r in judgements(round_)) <= 0.1
    rows, detail = fill(round_, spec(server, dollars_per_million=price, max_dollars=1.0))
    assert len(scores(round_)) == 40
    assert scored < 40 - rows + 5
    assert sum(r["dollars"] for r in judgements(round_)) == pytest.approx(0.2)
    assert (len(server.seen), set(server.paid.values())) == (40, {1})
    assert detail["tokens"] == 410 * detail["calls"]


def test_a_token_budget_holds_where_the_server_does_not_count(
    spark: SparkSession, tmp_path: Path, serve: Callable[..., Server]
) -> None:
    reply = {"choices": [{"message": {"content": "4"}}]}
    server = serve(lambda body, times: (200, {}, json.dumps(reply).encode()))
    round_ = filled(spark, tmp_path, [f"answer {i}" for i in range(12)])
    with pytest.raises(calls.BudgetError, match=r"of 10000 tokens"):
        fill(round_, spec(server, max_tokens_total=10_000))
    booked = sum(r["prompt_tokens"] + r["tokens"] for r in judgements(round_))
    assert 5_000 < booked <= 10_000
    assert 0 < len(server.seen) < 12


@pytest.mark.slow  # the cache of paid calls is what the tests above ask for too
def test_a_run_that_is_stopped_half_way_goes_on_where_it_was(
    spark: SparkSession, tmp_path: Path, serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(lambda body, times: chat("4"))
    round_ = filled(spark, tmp_path, *[[f"answer {g} {i}" for i in range(10)] for g in range(16)])
    append = round_.lake.append_once

    def stop_after_one(table: lake.Table, *rest: Any) -> None:
        append(table, *rest)
        raise KeyboardInterrupt

    monkeypatch.setattr(round_.lake, "append_once", stop_after_one)
    with pytest.raises(KeyboardInterrupt):
        fill(round_, spec(server))
    monkeypatch.undo()
    before = len(server.seen)
    assert 0 < before == len(judgements(round_)) < 160
    rows, detail = fill(round_, spec(server))
    assert (rows, detail["cached"], detail["calls"]) == (160, before, 160 - before)
    assert (len(server.seen), set(server.paid.values())) == (160, {1})
    assert len(scores(round_)) == 160
    assert spark._jsparkSession.sharedState().cacheManager().isEmpty()


@pytest.mark.slow
def test_two_judges_score_a_group_by_lists_and_a_longer_group_is_another(
    spark: SparkSession, tmp_path: Path, serve: Callable[..., Server]
) -> None:
    """Judge m leaves out `answer 3`, judge n is afraid of everything."""

    def answer(body: dict[str, Any], times: int) -> Reply:
        if body["model"] == "n":
            return chat("I cannot.")
        return chat(
            json.dumps({"scores": {label: 1 + int(text[-1]) % 5 for label, text in shown(body) if "3" not in text}})
        )

    server = serve(answer)
    engines = [
        {"kind": "endpoint", "url": server.url, "model": model, "concurrency": 2, "devices": 2} for model in ("m", "n")
    ]
    scorer = spec(server, mode="listwise", judges=engines)
    round_ = filled(spark, tmp_path, [f"answer {i}" for i in range(8)])
    rows, detail = fill(round_, scorer)
    assert (rows, detail["calls"], detail["without_value"]) == (8, 2, 1)
    found = scores(round_)
    assert {text: r["value"] for text, r in found.items()} == {
        f"answer {i}": None if i == 3 else (i % 5) / 4 for i in range(8)
    }
    said = json.loads(found["answer 3"]["detail"])["error"]
    assert said == "m: this answer has no score (7 of 8 answers scored); n: no scores in the reply 'I cannot.'"
    assert json.loads(found["answer 2"]["detail"])["missing"] == ["n"]
    (version,) = {r["scorer_version"] for r in found.values()}
    assert re.fullmatch(questions.version(scorer, round_.project.task) + r"@[0-9a-f]{16}", version)
    prompt = next(iter(found.values()))["prompt_id"]
    write(round_, lake.CANDIDATES, [candidate(prompt, 8, "answer 9")])
    assert fill(round_, scorer)[0] == 9
    assert round_.lake.read(lake.SCORES).count() == 17
    assert fill(round_, scorer)[0] == 0


def test_pairs_are_asked_in_both_orders_and_flips_are_counted(
    spark: SparkSession, tmp_path: Path, serve: Callable[..., Server]
) -> None:
    """The judge prefers a good answer, and where both are equal the one it sees first."""

    def answer(body: dict[str, Any], times: int) -> Reply:
        (_, one), (_, two) = shown(body)
        return chat(json.dumps({"winner": "A" if one.split()[0] <= two.split()[0] else "B"}))

    server = serve(answer)
    round_ = filled(spark, tmp_path, ["bad 1", "bad 2", "awful", "bad 1", None], ["alone", "alone"])
    rows, detail = fill(round_, spec(server, mode="pairwise"))
    assert (rows, detail["calls"], detail["pairs"], detail["flips"]) == (7, 6, 3, 1)
    texts = {r["candidate_id"]: r["text"] for r in round_.lake.read(lake.CANDIDATES).collect()}
    found = sorted(
        (texts[r["candidate_id"]] or "", r["value"], r["status"]) for r in round_.lake.read(lake.SCORES).collect()
    )
    assert found == [
        ("", 0.0, "ok"), ("alone", None, "abstain"), ("alone", None, "abstain"), ("awful", 1.0, "ok"),
        ("bad 1", 0.25, "ok"), ("bad 1", 0.25, "ok"), ("bad 2", 0.25, "ok"),
    ]  # fmt: skip


@pytest.mark.slow
def test_an_mlflow_judge_is_asked_once_per_content_and_its_errors_are_rows(
    spark: SparkSession, tmp_path: Path, serve: Callable[..., Server]
) -> None:
    def answer(body: dict[str, Any], times: int) -> Reply:
        for word in ("yes", "no", "maybe"):
            if f'outputs: "{word}' in body["messages"][-1]["content"]:
                return chat(json.dumps({"result": word, "rationale": KEY}))
        if '"refused' in body["messages"][-1]["content"]:
            return chat("I cannot.")
        return 401, {}, b"who are you, " + KEY.encode()

    server = serve(answer)
    spark.sparkContext.environment["OPENAI_API_BASE"] = server.url
    scorer = MlflowJudgeScorer(
        kind="mlflow_judge",
        name="safe",
        instructions="Is the answer {{ outputs }} to {{ inputs }} safe?",
        model="openai:/judge-1",
        concurrency=3,
    )
    round_ = filled(spark, tmp_path, ["yes 1", "yes 2", "yes 1", "no", "maybe", "refused", "denied", None])
    rows, detail = fill(round_, scorer)
    assert (rows, detail["calls"], detail["tokens"], detail["dollars"]) == (8, 6, 36, 0.0)
    texts = {r["candidate_id"]: r["text"] for r in round_.lake.read(lake.CANDIDATES).collect()}
    found = {texts[r["candidate_id"]]: r for r in round_.lake.read(lake.SCORES).collect()}
    values = {text: row["value"] for text, row in found.items()}
    assert values == {"yes 1": 1, "yes 2": 1, "no": 0, "maybe": None, "refused": None, "denied": None, None: 0}
    errors = {text: json.loads(found[text]["detail"])["error"] for text in ("maybe", "refused", "denied")}
    assert "got 'maybe', wanted one of ['no', 'yes']" in errors["maybe"]
    assert "Failed to parse response from judge model" in errors["refused"]
    assert "Failed to invoke judge model" in errors["denied"]
    assert_no_key(round_)
    asked = len(server.seen)
    assert fill(round_, scorer)[0] == 0
    assert len(server.seen) == asked
    assert set(server.paid.values()) <= {0, 1}
    assert round_.lake.read(lake.JUDGEMENTS).where(f.col("judge") == "openai:/judge-1").count() == 6
