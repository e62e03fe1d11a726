"""What one of several training processes makes for all: the others wait while it lives."""

import threading
import time
from pathlib import Path

import pytest

from taolake.training import setup


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("_POLL_S", 0.005), ("_BEAT_S", 0.02), ("_DEAD_S", 0.4)):
        monkeypatch.setattr(setup, name, seconds)
    monkeypatch.setattr(setup, "first", lambda: threading.current_thread().name == "first")


def test_the_others_wait_for_as_long_as_it_takes_and_make_nothing(tmp_path: Path) -> None:
    path = tmp_path / "work" / "made"

    def make() -> None:
        time.sleep(1.2)
        path.write_text("by the first")

    first = threading.Thread(target=setup.made_once, args=(path, make), name="first")
    first.start()
    setup.made_once(path, lambda: pytest.fail("made twice"))
    assert path.read_text() == "by the first"
    first.join()
    assert list(path.parent.iterdir()) == [path]
    setup.made_once(path, lambda: pytest.fail("made again"))


def test_the_others_do_not_wait_for_one_that_died(tmp_path: Path) -> None:
    path = tmp_path / "made"
    path.with_name(".made.pulse").touch()  # its last
    with pytest.raises(RuntimeError, match=r"the first process of the training was to make .*made and has died"):
        setup.made_once(path, lambda: pytest.fail("not its turn"))
