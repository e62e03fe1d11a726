"""The page at `/` in a real browser: two versions side by side, streamed; a thumb, an edit and another try are kept."""

import base64
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from taolake.gateway import rows
from tests.e2e.test_ask_page import BROWSER, CONTRAST, Tab, port, tab
from tests.gateways import KEY, Running, gateway

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome found")
__all__ = ["port", "tab"]  # fixtures


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    with gateway(tmp_path) as found:
        yield found


def visit(tab: Tab, running: Running, width: int = 1400, scheme: str = "light") -> None:
    tab.send("Log.clear")  # what an earlier test's page said is told again to every new connection
    tab.events.clear()
    tab.send("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
    tab.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    tab.send("Page.navigate", url=f"{running.url}/")
    until(tab, "document.readyState === 'complete' && document.body.classList.contains('ready')")


def until(tab: Tab, script: str) -> None:
    deadline = time.monotonic() + 30
    while not tab.do(script):
        assert time.monotonic() < deadline, (script, tab.errors())
        time.sleep(0.05)


def ask(tab: Tab, question: str, answers: int) -> None:
    send(tab, question)
    until(tab, f"document.querySelectorAll('.said').length === {answers}")


def send(tab: Tab, question: str) -> None:
    """Asks once both sides are done: one of them may have failed while the other still runs."""
    until(tab, "!document.getElementById('send').disabled")
    tab.write("#question", question)
    click(tab, "#send")


def click(tab: Tab, selector: str) -> None:
    tab.do(f"document.querySelector({json.dumps(selector)}).click()")


def texts(tab: Tab, selector: str) -> list[str]:
    return list(tab.do(f"[...document.querySelectorAll({json.dumps(selector)})].map(n => n.textContent)"))


def logged(running: Running) -> list[dict[str, Any]]:
    files = sorted(running.spool.glob("*.open"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def test_a_person_asks_both_and_says_what_is_better(tab: Tab, running: Running) -> None:
    visit(tab, running)
    assert tab.do("[...document.querySelectorAll('select')].map(s => s.value)") == ["champion", "challenger"]
    tab.write("#key", KEY)
    tab.write("#question", "<b>hi</b>")
    running.upstream.may_go_on.clear()
    tab.do("document.getElementById('send').click()")
    until(tab, "/ word0$/.test(document.querySelector('.answer').textContent)")  # before the rest is there
    running.upstream.may_go_on.set()
    until(tab, "document.querySelectorAll('.said').length === 2")
    whole = "word0 word1 word2 word3 word4"
    assert sorted(texts(tab, ".answer")) == [f"challenger {whole}", f"champion {whole}"]
    assert texts(tab, ".question") == ["<b>hi</b>"] * 2
    click(tab, ".side .up")
    until(tab, "document.querySelector('.side .up').getAttribute('aria-pressed') === 'true'")
    click(tab, ".side:last-child .rewrite")
    tab.write(".edit textarea", "a better answer")
    click(tab, ".edit .save")
    until(tab, "document.querySelector('.side:last-child .answer').textContent === 'a better answer'")
    click(tab, ".side .again")
    until(tab, "document.querySelectorAll('.said').length === 3")
    ask(tab, "and then", 5)
    assert tab.errors() == []
    assert {url.split("/", 3)[2] for url in tab.requests()} == {f"127.0.0.1:{running.port}"}
    lines = logged(running)
    answers = [rows.payload(line) for line in lines if line["kind_of_row"] == "payload"]
    told = [rows.reaction(line) for line in lines if line["kind_of_row"] == "reaction"]
    by = {row["databricks_request_id"]: row for row in answers}
    assert [(r["kind"], by[r["request_id"]]["served_entity_id"], r["text"]) for r in told] == [
        ("thumb", "m/1", None), ("edit", "m/2", "a better answer"), ("regenerate", "m/1", None),
    ]  # fmt: skip
    assert len(answers) == 5 and len({row["requester"] for row in answers}) == 1
    assert len({row["session"] for row in answers}) == 2  # a conversation a side
    last = [json.loads(row["request"])["messages"] for row in answers[-2:]]
    assert {turns[-2]["content"] for turns in last} == {f"champion {whole}", "a better answer"}


def test_what_goes_wrong_is_said(tab: Tab, running: Running) -> None:
    visit(tab, running)
    tab.write("#key", "not-the-key")
    tab.write("#question", "hi")
    tab.press("Enter")
    until(tab, "!document.getElementById('problem').hidden")
    assert "no key" in tab.text("#problem")
    tab.write("#key", KEY)
    send(tab, "break")
    until(tab, "/broke off|network/i.test(document.getElementById('problem').textContent)")
    ask(tab, "hi", 2)
    assert tab.do("document.getElementById('problem').hidden") is True
    thrown = [e for e in tab.errors() if e["method"] == "Runtime.exceptionThrown"]
    assert thrown == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1400])
def test_it_fits_and_can_be_read(tab: Tab, running: Running, width: int, scheme: str) -> None:
    visit(tab, running, width, scheme)
    tab.write("#key", KEY)
    ask(tab, "a long question " * 20, 2)
    click(tab, ".rewrite")
    assert tab.do("document.documentElement.scrollWidth") <= width
    heights = tab.do("[...document.querySelectorAll('button')].filter(b => b.offsetParent).map(b => b.offsetHeight)")
    assert len(heights) >= 10 and min(heights) >= 44
    assert tab.do(CONTRAST) >= 4.5
    across = tab.do("new Set([...document.querySelectorAll('.side')].map(n => n.getBoundingClientRect().left)).size")
    assert across == (1 if width == 360 else 2)
    assert tab.errors() == []
    if folder := os.environ.get("TAOLAKE_SCREENSHOTS"):
        shot = base64.b64decode(tab.send("Page.captureScreenshot")["data"])
        (Path(folder) / f"chat-{width}-{scheme}.png").write_bytes(shot)
