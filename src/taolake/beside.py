"""Something small done again and again beside something long: a look, a heartbeat, a bar that moves."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def every(seconds: float, look: Callable[[], object]) -> Iterator[None]:
    """Look again and again beside what is inside, the first time after `seconds`, until that ends."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(seconds):
            look()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
