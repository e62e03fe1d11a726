"""What a run says of itself while it runs: beats added up, the file another process reads, and its one line."""

import json
import time
from pathlib import Path

import pytest

from taolake.stages.live import SILENT_S, Beats, Live, State, duration, read_beats, running, sentence


class Bar:
    """Remembers where it stood."""

    def __init__(self) -> None:
        self.at: list[int] = []

    def to(self, done: int) -> None:
        self.at.append(done)


def beat(folder: Path, name: str, **said: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(said))


def test_a_retried_task_counts_its_rows_once_and_its_tokens_each_time(tmp_path: Path) -> None:
    beat(tmp_path, "0.1", done=40, tokens=400, seconds=4.0, full_s=3.0, errors=1)
    beat(tmp_path, "0.7", done=60, tokens=250, seconds=2.0, full_s=2.0, errors=2)
    beat(tmp_path, "1", done=5)
    (tmp_path / "2").write_text('{"done": 3')  # half written
    assert read_beats(tmp_path) == Beats(done=65, errors=2, tokens=650, seconds=6.0, full_s=5.0)


def test_another_process_reads_how_far_a_run_is(tmp_path: Path) -> None:
    bar = Bar()
    with Live(tmp_path, "generate abc", 100, bar) as live:  # type: ignore[arg-type]
        beat(tmp_path / "progress" / "one", "0", done=7, tokens=70)
        live.begin(tmp_path / "progress" / "one")
        live._write()
        [state] = running(tmp_path)
        assert (state.label, state.total, state.done, state.tokens, state.errors) == ("generate abc", 100, 7, 70, 0)
        assert live.end(tmp_path / "progress" / "one", 50, 500, 2).done == 7
        assert not (tmp_path / "progress" / "one").exists()
        live._write()
        [state] = running(tmp_path)
        assert (state.done, state.tokens, state.errors) == (50, 500, 2)
        assert state.rows_per_s > 0
        assert time.time() - state.updated_at < SILENT_S
    assert bar.at[-1] == 50
    assert running(tmp_path) == []


def test_what_is_no_state_is_passed_over(tmp_path: Path) -> None:
    beat(tmp_path / "progress", "live-1.json", label="generate", total=3)
    beat(tmp_path / "progress", "live-2.json", label="generate", of_another_version=3)
    (tmp_path / "progress" / "live-3.json").write_text("")
    assert [state.total for state in running(tmp_path)] == [3]
    assert running(tmp_path / "nowhere") == []


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        (
            {},
            "g: 1,200 of 8,000 cells (15%), 5,120 tokens/s, 20.0 cells/s, 3 errors, 1 min 40 s so far, "
            "about 5 min 40 s left",
        ),
        (
            {"rows_per_s": 0.0},
            "g: 1,200 of 8,000 cells (15%), 5,120 tokens/s, 0.0 cells/s, 3 errors, 1 min 40 s so far",
        ),
        (
            {"updated_at": 1040.0},
            "g: 1,200 of 8,000 cells (15%), 5,120 tokens/s, 20.0 cells/s, 3 errors, 1 min 40 s so far; "
            "no sign of life for 1 min 0 s: killed? Run it again",
        ),
    ],
)
def test_one_line_says_it_all(changes: dict[str, float], wanted: str) -> None:
    values = {"rows_per_s": 20.0, "tokens_per_s": 5120.0, "started_at": 1000.0, "updated_at": 1099.0} | changes
    assert sentence(State("g", 8000, 1200, 9000, 3, **values), 1100.0) == wanted  # type: ignore[arg-type]


@pytest.mark.parametrize(("seconds", "said"), [(0, "0 s"), (59.4, "59 s"), (61, "1 min 1 s"), (7261, "2 h 1 min")])
def test_durations_in_words(seconds: float, said: str) -> None:
    assert duration(seconds) == said
