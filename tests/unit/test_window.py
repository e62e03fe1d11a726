"""The window keeps an engine full and no fuller, pulls its input late, and gives every request one answer."""

import random
import threading
import time
from collections.abc import Iterator, Sequence

import pytest

from taolake.engines import watchdog, window
from taolake.types import Completion, Request, Sampling


def requests(count: int, pulled: list[int] | None = None) -> Iterator[Request]:
    """Requests 0 to `count` - 1; `pulled` notes each as it is taken."""
    for number in range(count):
        if pulled is not None:
            pulled.append(number)
        yield Request(str(number), ({"role": "user", "content": "q"},), Sampling(1), number)


class Slots:
    """An engine that finishes `per_step` of what it holds in every step, in an order of its own, and keeps a diary."""

    def __init__(self, width: int, per_step: int, idle_steps: int = 0) -> None:
        self.width = width
        self.held: list[Request] = []
        self.most = 0
        self.added: list[int] = [0]  # requests accepted before each step
        self._per_step, self._idle = per_step, idle_steps
        self._order = random.Random(5)

    @property
    def inflight(self) -> int:
        return len(self.held)

    def submit(self, request: Request) -> None:
        self.held.append(request)
        self.most = max(self.most, len(self.held))
        self.added[-1] += 1

    def poll(self) -> Sequence[Completion]:
        self.added.append(0)
        if self._idle:
            self._idle -= 1
            return []
        self._order.shuffle(self.held)
        done, self.held = self.held[: self._per_step], self.held[self._per_step :]
        return [Completion(request.key, "ok") for request in done]


class Dies(Slots):
    """An engine whose third step raises."""

    def poll(self) -> Sequence[Completion]:
        if len(self.added) == 3:
            raise RuntimeError("device lost")
        return super().poll()


@pytest.mark.parametrize(("width", "per_step"), [(1, 1), (5, 1), (5, 2), (5, 5), (40, 3), (200, 200)])
@pytest.mark.parametrize("count", [0, 1, 5, 100])
def test_every_request_is_answered_once_and_the_width_is_kept(width: int, per_step: int, count: int) -> None:
    engine = Slots(width, per_step)
    keys = [done.key for done in window.run(engine, requests(count))]
    assert sorted(keys, key=int) == [str(number) for number in range(count)]
    assert engine.most == min(width, count)
    assert engine.inflight == 0


def test_an_engine_without_requests_is_never_stepped() -> None:
    engine = Slots(4, 1)
    assert list(window.run(engine, [])) == []
    assert engine.added == [0]


def test_input_is_pulled_only_as_there_is_room() -> None:
    pulled: list[int] = []
    answers = window.run(Slots(5, 1), requests(1000, pulled))
    assert pulled == []
    taken = []
    for number in range(1, 21):
        next(answers)
        taken.append(len(pulled))
        assert len(pulled) <= 5 + number  # five in flight, those answered before, and one looked ahead
    assert taken == list(range(6, 26))


def test_an_empty_engine_is_filled_at_once_and_a_running_one_in_bursts() -> None:
    engine = Slots(100, 80)
    assert len(list(window.run(engine, requests(300)))) == 300
    # 20 left after the first step, so only 32 come to them; 52 are then answered in one step, which empties it.
    assert window.BURST == 32
    assert engine.added[:3] == [100, 32, 100]
    assert sum(engine.added) == 300


def test_it_waits_for_steps_that_finish_nothing() -> None:
    engine = Slots(3, 3, idle_steps=4)
    assert sorted(done.key for done in window.run(engine, requests(3))) == ["0", "1", "2"]
    assert engine.added == [3, 0, 0, 0, 0, 0]


def test_answers_come_before_the_input_ends() -> None:
    def endless() -> Iterator[Request]:
        while True:
            yield from requests(1)

    assert next(window.run(Slots(2, 1), endless())).key == "0"


def test_the_death_of_an_engine_is_not_swallowed() -> None:
    with pytest.raises(RuntimeError, match="device lost"):
        list(window.run(Dies(2, 1), requests(10)))


def test_a_watcher_takes_the_steps() -> None:
    engine, steps = Slots(2, 1), 0

    def step() -> Sequence[Completion]:
        nonlocal steps
        steps += 1
        return engine.poll()

    assert len(list(window.run(engine, requests(5), step))) == 5
    assert steps == 5


@pytest.mark.parametrize(("seconds", "codes"), [(0.0, []), (0.5, [watchdog.STALLED])])
def test_the_watchdog_ends_a_process_whose_step_takes_too_long(seconds: float, codes: list[int]) -> None:
    said: list[str] = []
    left: list[int] = []
    dog = watchdog.Watchdog(0.1, said.append, left.append)

    def step() -> Sequence[Completion]:
        time.sleep(seconds)
        return []

    dog.watch(step)
    dog.close()
    assert (left, said) == (codes, ["no engine step ended in 0.1 s"] * len(codes))


def test_the_watchdog_does_not_mind_waiting_between_steps() -> None:
    left: list[int] = []
    dog = watchdog.Watchdog(0.1, lambda reason: None, left.append)
    for _ in range(3):
        dog.watch(lambda: [])
        time.sleep(0.2)
    dog.close()
    assert left == []


def test_without_a_limit_nothing_is_watched() -> None:
    before = threading.active_count()
    watchdog.Watchdog(None, lambda reason: None).watch(lambda: [])
    assert threading.active_count() == before
