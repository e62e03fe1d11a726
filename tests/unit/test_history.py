"""The history page: what is told of each round, why it stopped, what follows from releases; hostile text is text."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from taolake.report import history

DAY = datetime(2026, 3, 1, 12, tzinfo=UTC)
GOOD = {
    "promoted": True,
    "reason": "the gain is +0.100",
    "gain": {"mean": 0.1, "low": 0.05, "high": 0.15},
    "guards": [],
}
BAD = {
    "promoted": False,
    "reason": "the gain is +0.010, but <b>loss</b>",
    "gain": {"mean": 0.01, "low": -0.02, "high": 0.04},
    "guards": [{"name": "loss_to_best_so_far", "value": 0.09, "limit": 0.02, "ok": False}],
}


def row(number: int, stage: str, detail: dict[str, Any], state: str = "done", config: str = "c") -> dict[str, Any]:
    at = DAY + timedelta(days=number)
    return {
        "round": number, "stage": stage, "state": state, "config_hash": config, "seconds": 1800.0, "tokens": 10,
        "detail": json.dumps(detail), "started_at": at,
    }  # fmt: skip


def story() -> list[dict[str, Any]]:
    rows = [
        row(1, "ingest", {"kept": 100}), row(1, "select", {"rows": {"imitate": 5, "regress": 9}}), row(1, "gate", GOOD),
        row(1, "register", {"version": 1}),
        row(2, "ingest", {"kept": 160}, config="d"),
        row(2, "select", {"rows": {"imitate": 7}, "replayed": 2, "cut": 3, "diversity": 0.5}, config="d"),
        row(2, "gate", BAD, config="d"), row(2, "register", {"version": 2}, config="d"),
        row(3, "ingest", {"kept": 170}, config="d"),
        row(3, "generate", {"error": "RuntimeError: no engine"}, "failed", config="d"),
    ]  # fmt: skip
    released = [
        {"version": 1, "verdict": verdict, "decided_at": DAY, "requests": 40, "reason": "worse by judge"}
        for verdict in ("hold", "rollback")
    ]
    return history.rounds(rows, released)


def test_every_round_says_what_changed_and_how_it_ended() -> None:
    first, second, third = story()
    assert (first["promoted"], second["promoted"], third["promoted"]) == (True, False, False)
    assert first["changes"] == ["the first round"]
    assert second["changes"] == [
        "+60 prompts",
        "another project file",
        "2 winners of earlier rounds seen again",
        "3 self-made answers left out",
        "50\u00a0% of the imitated answers are different ones",
    ]
    assert third["changes"] == ["+10 prompts", "the same project file"]
    assert third["reason"] == "stopped at generate: RuntimeError: no engine"
    assert (first["rows"], first["kinds"], first["hours"]) == (14, "5 imitate, 9 regress", 2.0)


def test_the_page_tells_it_newest_first() -> None:
    page = history.render(story(), "shop")
    assert page.index("Round 3<") < page.index("Round 2<") < page.index("Round 1<")
    assert "3 rounds, 1 promoted; the newest of these is round 1, with +10.0 points." in page
    assert "loss to best so far is 0.09, limit 0.02" in page
    assert "rollback after 40 requests, worse by judge" in page and "hold after" not in page
    assert "<b>loss</b>" not in page and "&lt;b&gt;loss" in page
    assert "<script" not in page and page == history.render(story(), "shop")


def test_a_round_that_began_is_told_without_numbers() -> None:
    (told,) = history.rounds([row(1, "ingest", {}, "running")], [])
    assert told["reason"] == "not finished: it came to ingest"
    assert "1 round, none promoted." in history.render([told], "shop")
