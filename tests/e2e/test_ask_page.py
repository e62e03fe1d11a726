"""The page in a real browser, driven by keys and clicks through the DevTools protocol. Skipped where there is none."""

import base64
import itertools
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from taolake.curation.asked import read_lines
from taolake.report.ask import page
from tests.asking import HOSTILE, items

client = pytest.importorskip("websockets.sync.client", reason="package websockets is not installed")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome found")
KEYS = {"ArrowRight": 39, "ArrowLeft": 37, "Tab": 9, "Enter": 13}


class Tab:
    """One tab of a headless browser."""

    def __init__(self, socket: Any) -> None:
        self.socket = socket
        self.numbers = itertools.count(1)
        self.events: list[dict[str, Any]] = []
        self.send("Log.clear")  # what earlier pages said is told anew to every tab
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = json.loads(self.socket.recv(timeout=60))
            if message.get("id") == number:
                assert "error" not in message, message
                return dict(message["result"])
            if "method" not in message:
                continue
            self.events.append(message)
            if message["method"] == "Page.javascriptDialogOpening":  # nothing else is answered until this is
                self.socket.send(
                    json.dumps({"id": 0, "method": "Page.handleJavaScriptDialog", "params": {"accept": True}})
                )

    def open(self, file: Path, width: int = 1400, height: int = 900, scheme: str = "light") -> None:
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.send("Emulation.setEmulatedMedia", features=features)
        self.send("Page.navigate", url=file.as_uri())
        deadline = time.monotonic() + 30
        while not self.do("document.readyState === 'complete' && document.body.classList.contains('ready')"):
            assert time.monotonic() < deadline, self.errors()
            time.sleep(0.05)

    def do(self, script: str) -> Any:
        result = self.send("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def press(self, *keys: str) -> None:
        for key in keys:
            code = KEYS.get(key, ord(key) if len(key) == 1 else 0)
            text = {"text": key} if len(key) == 1 else {}
            self.send("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, **text)
            self.send("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def write(self, selector: str, text: str) -> None:
        self.do(
            f"(() => {{ const box = document.querySelector({json.dumps(selector)}); box.focus(); box.select(); }})()"
        )
        self.send("Input.insertText", text=text)

    def text(self, selector: str) -> str:
        return str(self.do(f"document.querySelector({json.dumps(selector)}).textContent"))

    def errors(self) -> list[dict[str, Any]]:
        named = [e for e in self.events if e["method"] in ("Runtime.exceptionThrown", "Log.entryAdded")]
        return [e for e in named if e.get("params", {}).get("entry", {}).get("level") != "verbose"]

    def requests(self) -> list[str]:
        sent = [e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"]
        return [url for url in sent if not url.startswith(("file:", "blob:", "data:"))]

    def downloads(self) -> list[str]:
        """States that downloads told of so far, oldest first; events come with answers, so one is asked for."""
        self.do("1")
        return [e["params"]["state"] for e in self.events if e["method"] == "Browser.downloadProgress"]

    def pressed(self) -> list[str]:
        """What is marked as said on the screen: candidate ids, `none`, `equal`."""
        return list(
            self.do("[...document.querySelectorAll('[aria-pressed=true]')].map(b => b.dataset.candidate || b.id)")
        )


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    profile = tmp_path_factory.mktemp("browser")
    assert BROWSER is not None
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    place = [f"--user-data-dir={profile}", "--remote-debugging-port=0", "about:blank"]
    with (profile / "log").open("wb") as log:
        process = subprocess.Popen([BROWSER, *flags, *place], stdout=log, stderr=log, start_new_session=True)
        try:
            file, deadline = profile / "DevToolsActivePort", time.monotonic() + 60
            while not file.exists() or not file.read_text().strip():
                assert process.poll() is None and time.monotonic() < deadline, (profile / "log").read_text()[-2000:]
                time.sleep(0.1)
            yield int(file.read_text().split()[0])
        finally:
            os.killpg(process.pid, 15)
            process.wait(30)


@pytest.fixture
def tab(port: int) -> Iterator[Tab]:
    import httpx

    targets = httpx.get(f"http://127.0.0.1:{port}/json/list", trust_env=False).json()
    url = next(t["webSocketDebuggerUrl"] for t in targets if t["type"] == "page")
    with client.connect(url, max_size=None, proxy=None) as socket:
        yield Tab(socket)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "ask.html"
    # Another name per test: what one keeps in the browser is not the next one's.
    file.write_text(page(items(), "shop", "Questions about a shop.", tmp_path.name), encoding="utf-8")
    return file


def downloaded(tab: Tab, folder: Path, button: str) -> tuple[str, list[dict[str, Any]]]:
    folder.mkdir()
    tab.send("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder), eventsEnabled=True)
    before = tab.downloads().count("completed")
    tab.do(f"document.getElementById('{button}').click()")
    deadline = time.monotonic() + 30
    while tab.downloads().count("completed") == before:  # the file is there earlier, empty
        assert time.monotonic() < deadline, (tab.downloads(), list(folder.iterdir()))
        time.sleep(0.1)
    (done,) = folder.iterdir()
    return done.name, read_lines(done.read_text(encoding="utf-8"))


def test_a_person_answers_by_keys_and_gets_a_file(tab: Tab, file: Path, tmp_path: Path) -> None:
    tab.open(file)
    assert (tab.text("#where"), tab.text("#count")) == ("Question 1 of 3", "0 of 3 answered")
    assert tab.do("document.getElementById('download').disabled") is True
    tab.write("#annotator", "quiet-otter-42")
    tab.press("1")  # typed into the name: no answer
    assert tab.pressed() == [] and tab.do("document.getElementById('annotator').value") == "quiet-otter-421"
    tab.write("#annotator", "quiet otter/42")
    tab.do("document.activeElement.blur()")
    tab.press("9")  # no ninth answer
    assert tab.pressed() == []
    tab.press("1", "3")
    assert tab.pressed() == ["p0-2"] and tab.text("#count") == "1 of 3 answered"
    tab.press("3")  # again: taken back
    assert tab.pressed() == [] and tab.text("#count") == "0 of 3 answered"
    tab.press("3", "ArrowRight", "ArrowRight", "=", "ArrowLeft", "0")
    assert tab.text("#where") == "Question 2 of 3" and tab.pressed() == ["none"]
    assert tab.text("#count") == "3 of 3 answered"
    name, records = downloaded(tab, tmp_path / "down", "download")
    assert name.startswith("answers-quiet-otter-42-")
    assert [(r["kind"], r["prompt_id"], r["chosen"], r["verdict"], r["annotator"]) for r in records] == [
        ("best_of", "p0", "p0-2", "best", "quiet otter/42"),
        ("best_of", "p1", None, "none", "quiet otter/42"),
        ("best_of", "p2", None, "equal", "quiet otter/42"),
    ]
    for record, asked in zip(records, items(), strict=True):
        assert record["messages"] == asked["messages"] and record["answers"] == asked["answers"]
        assert record["order"] == [a["candidate_id"] for a in asked["answers"]]
        assert 0 <= record["seconds"] < 60
    assert records[0]["seconds"] > 0
    assert tab.errors() == [] and tab.requests() == []


def test_an_edit_and_what_was_said_survive_closing(tab: Tab, file: Path, tmp_path: Path) -> None:
    tab.open(file)
    tab.press("2")
    assert tab.do("document.querySelectorAll('.edit:not([hidden])').length") == 1
    tab.do("document.querySelector('.edit:not([hidden]) summary').click()")
    tab.write(".edit:not([hidden]) textarea", "a better\nsecond </script> of p0")
    tab.press("4")  # typed into the box, not chosen
    time.sleep(1)  # what a page stores reaches the browser a moment later, with no event for it
    tab.open(file)
    assert tab.pressed() == ["p0-1"] and tab.text("#count") == "1 of 3 answered"
    assert tab.do("document.querySelector('.edit:not([hidden])').open") is True
    _, (best, edit) = downloaded(tab, tmp_path / "down", "download")
    assert best["chosen"] == "p0-1" and best["annotator"] == tmp_path.name
    assert edit == {
        "kind": "edit", "prompt_id": "p0", "messages": items()[0]["messages"], "annotator": tmp_path.name,
        "candidate_id": "p0-1", "original": "second of p0", "edited": "a better\nsecond </script> of p04",
    }  # fmt: skip
    tab.press("Tab")
    tab.do("document.activeElement.blur()")
    tab.press("1")  # another answer is best: the edit of the second is not sent
    _, records = downloaded(tab, tmp_path / "again", "download")
    assert [(r["kind"], r["chosen"]) for r in records] == [("best_of", "p0-0")]


def test_hostile_texts_are_shown_as_they_are(tab: Tab, file: Path) -> None:
    tab.open(file)
    tab.press("ArrowRight")
    shown = tab.do("[...document.querySelectorAll('#answers .answer > .text')].map(n => n.textContent)")
    assert shown == list(HOSTILE)
    assert tab.do("document.title") == "Which answer is best? shop"
    assert tab.do("document.querySelectorAll('img, #answers b, #answers script').length") == 0
    assert tab.do("document.querySelectorAll('script').length") == 2
    assert tab.text("#turns").count("</script>") == HOSTILE[0].count("</script>")
    # Were a script let in, the policy would not run it.
    tab.do("document.body.append(Object.assign(document.createElement('script'), {textContent: 'document.title = 1'}))")
    assert tab.do("document.title") == "Which answer is best? shop"


def test_the_end_leads_back_to_what_is_open(tab: Tab, file: Path, tmp_path: Path) -> None:
    tab.open(file)
    tab.do("document.getElementById('next').click()")
    tab.press("1", "ArrowRight", "2", "ArrowRight", "ArrowRight", "1", "0", "=")
    assert tab.do("document.getElementById('end').hidden") is False
    assert tab.text("#open") == "1 left open." and tab.do("document.getElementById('next').disabled") is True
    _, records = downloaded(tab, tmp_path / "down", "download-end")
    assert [r["chosen"] for r in records] == ["p1-0", "p2-1"]
    tab.do("document.getElementById('to-open').click()")
    assert tab.text("#question") == "Which one for p0?" and tab.pressed() == []
    assert tab.do("document.activeElement.id") == "question"
    tab.press("1", "ArrowRight", "ArrowRight", "ArrowRight")
    assert tab.text("#open") == "Every question has an answer."
    assert tab.do("document.getElementById('to-open').hidden") is True


def test_a_browser_that_keeps_nothing_says_so(tab: Tab, file: Path) -> None:
    block = (
        "Object.defineProperty(window, 'localStorage', { get() { throw new DOMException('no', 'SecurityError'); } })"
    )
    added = tab.send("Page.addScriptToEvaluateOnNewDocument", source=block)
    tab.open(file)
    tab.press("1")
    assert tab.pressed() == ["p0-0"] and tab.do("document.getElementById('unstored').hidden") is False
    tab.send("Page.removeScriptToEvaluateOnNewDocument", identifier=added["identifier"])
    tab.send("Page.navigate", url="about:blank")
    asked = [e["params"]["type"] for e in tab.events if e["method"] == "Page.javascriptDialogOpening"]
    assert asked == ["beforeunload"]  # who leaves with answers that are kept nowhere is asked first


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1400])
def test_it_fits_and_can_be_read(tab: Tab, file: Path, tmp_path: Path, width: int, scheme: str) -> None:
    """No sideways scrolling, buttons large enough for a finger, text against its ground at 4.5 to 1 or better."""
    tab.open(file, width, 800, scheme)
    tab.press("ArrowRight", "2")
    tab.do("document.getElementById('before').open = true")
    assert tab.do("document.documentElement.scrollWidth") <= width
    heights = tab.do("[...document.querySelectorAll('button')].filter(b => b.offsetParent).map(b => b.offsetHeight)")
    assert len(heights) >= 8 and min(heights) >= 44
    assert tab.do(CONTRAST) >= 4.5
    across = tab.do("new Set([...document.querySelectorAll('.answer')].map(n => n.getBoundingClientRect().left)).size")
    assert across == (1 if width == 360 else 2)
    tab.do("window.scrollTo(0, 1e6)")  # the bar covers nothing that cannot be scrolled to
    edge = "document.querySelector('{}').getBoundingClientRect().{}"
    assert tab.do(f"{edge.format('#equal', 'bottom')} <= {edge.format('.foot', 'top')}") is True
    if folder := os.environ.get("TAOLAKE_SCREENSHOTS"):
        for place in (0, 1_000_000):
            tab.do(f"window.scrollTo(0, {place})")
            shot = base64.b64decode(tab.send("Page.captureScreenshot")["data"])
            (Path(folder) / f"ask-{width}-{scheme}-{'top' if place == 0 else 'end'}.png").write_bytes(shot)


CONTRAST = """(() => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (node) => { while (node) { const c = rgb(getComputedStyle(node).backgroundColor);
    if (c.length === 3 || c[3] > 0) return c; node = node.parentElement; } return [255, 255, 255]; };
  const ratios = [];
  for (const node of document.querySelectorAll("body *")) {
    const own = [...node.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || !node.offsetParent || node.disabled) continue;
    const [a, b] = [light(rgb(getComputedStyle(node).color)), light(ground(node))].sort((x, y) => y - x);
    ratios.push((a + 0.05) / (b + 0.05));
  }
  return Math.min(...ratios);
})()"""
