"""The pages of production and of the rounds in a real browser: no error, no request, nothing to scroll sideways."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from taolake.report import history, monitor
from tests.e2e.test_ask_page import BROWSER, CONTRAST, Tab, client
from tests.e2e.test_ask_page import port as port  # a fixture
from tests.unit.test_history import story
from tests.unit.test_monitor_page import rows

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome found")
PAGES = {"monitor": lambda: monitor.render(rows(), "shop"), "history": lambda: history.render(story(), "shop")}


@pytest.fixture
def tab(port: int) -> Iterator[Tab]:
    import httpx

    targets = httpx.get(f"http://127.0.0.1:{port}/json/list", trust_env=False).json()
    url = next(t["webSocketDebuggerUrl"] for t in targets if t["type"] == "page")
    with client.connect(url, max_size=None, proxy=None) as socket:
        yield Tab(socket)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1400])
@pytest.mark.parametrize("name", PAGES)
def test_it_fits_and_can_be_read(tab: Tab, tmp_path: Path, name: str, width: int, scheme: str) -> None:
    file = tmp_path / f"{name}.html"
    text = PAGES[name]()
    assert text.count("<body>") == 1
    file.write_text(text.replace("<body>", '<body class="ready">'), encoding="utf-8")  # what the tab waits for
    tab.open(file, width, 800, scheme)
    assert tab.do("document.documentElement.scrollWidth") <= width
    assert tab.do(CONTRAST) >= 4.5
    assert tab.do("[...document.querySelectorAll('svg')].every(s => s.getBoundingClientRect().width > 200)") is True
    assert tab.errors() == [] and tab.requests() == []
