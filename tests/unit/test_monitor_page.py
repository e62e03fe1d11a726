"""The page of production, from rows as the queries give them."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from taolake.report import monitor

DAY = datetime(2026, 3, 1, tzinfo=UTC)


def rows() -> dict[str, list[dict[str, Any]]]:
    """Three windows; version 2 comes in the last two; one alert, one decision; names that try to be markup."""

    def row(day: int, model: str, metric: str, value: float | None, spread: float | None = None) -> dict[str, Any]:
        ends = (
            {"low": None, "high": None}
            if spread is None or value is None
            else {"low": value - spread, "high": value + spread}
        )
        return {
            "window_start": DAY + timedelta(days=day),
            "model": model,
            "metric": metric,
            "value": value,
            "n": 9,
        } | ends

    cells = [(0, "tuned-1"), (1, "tuned-1"), (1, "tuned-2"), (2, "tuned-1"), (2, "tuned-2")]
    alert = row(2, "tuned-2", "errors", 0.5) | {"alert": "errors 0.5 is above <0.05>"}
    decision = {
        "decided_at": DAY, "model": "shop", "version": 2, "live": 1, "verdict": "rollback", "reason": "worse by judge",
        "requests": 77, "acted": True,
    }  # fmt: skip
    return {
        "quality": [row(day, model, "score_judge", 0.5 + day / 10, 0.1) for day, model in cells]
        + [row(2, "tuned-2", "feedback", None)],
        "form": [row(day, model, "answer_tokens", 1000.0 * day) for day, model in cells],
        "drift": [row(day, model, "psi_length", 0.0, 0.0) for day, model in cells],
        "service": [row(day, model, "requests", 40.0) for day, model in cells],
        "alerts": [alert],
        "releases": [decision],
    }


def test_the_headline_is_of_the_newest_window() -> None:
    found = rows()
    assert (
        monitor.headline(found, DAY + timedelta(days=2))
        == "80 requests to 2 versions in the newest window, and 1 alert."
    )
    assert monitor.headline(found, DAY) == "40 requests to 1 version in the newest window, and no alert."


def test_the_page_shows_each_metric_alert_and_decision() -> None:
    page = monitor.render(rows(), "shop")
    assert re.findall(r"<h3>(.*?)</h3>", page) == ["score judge", "answer tokens", "psi length", "requests"]
    assert "errors 0.5 is above &lt;0.05&gt;" in page and "<0.05>" not in page
    assert "worse by judge" in page and "77" in page
    assert page.count("<svg") == 4 and "<script" not in page
    assert "0.6 at 1, 0.7 at 2" in page, "a chart says its numbers in words"


def test_newest_versions_come_first_and_older_ones_are_counted() -> None:
    found = rows()
    for number in range(3, 6):
        found["service"].append(
            found["service"][0] | {"window_start": DAY + timedelta(days=number), "model": f"v{number}"}
        )
    page = monitor.render(found, "shop")
    assert '<i class="tuned"></i>v5' in page and '<i class="base"></i>v4' in page
    assert "and 2 older, in the table" in page


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0, 1, [0, 0.25, 0.5, 0.75, 1]),
        (0, 130, [0, 50, 100, 150]),
        (-0.5, 1, [-0.5, 0, 0.5, 1]),
        (0, 0.003, [0, 0.001, 0.002, 0.003]),
    ],
)
def test_ticks_are_round_and_hold_the_values(low: float, high: float, said: list[float]) -> None:
    assert monitor._ticks(low, high) == said
