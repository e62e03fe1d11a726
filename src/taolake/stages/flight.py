"""Two chunks in flight: while one is committed, the next one is answered.

Answering is one at a time, so at most one job at once holds engines: where Spark starts more tasks than there are
devices, as in local mode, a second job would be given a second Python worker, and that one a second engine on the same
device. The first job has ended when the next one begins, so its idle worker is taken again, with the engine in it. A
commit needs no engine and no Python worker; it wants one free task slot beside those of the engines. Not here: what a
step does.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

Item = TypeVar("Item")
Half = TypeVar("Half")
Whole = TypeVar("Whole")


def two_in_flight(
    spark: "SparkSession",
    items: Iterable[Item],
    answer: Callable[[Item], Half],
    commit: Callable[[Item, Half], Whole],
) -> list[Whole]:
    """Do both steps for every item, `answer` for one at a time and in order; returns what `commit` gave, in order.

    Args:
        spark: its thread properties are handed on to the threads.
        items: the chunks.
        answer: the step that needs engines.
        commit: the step that does not; it is given what `answer` returned.

    Raises:
        Exception: the first that a step raised, after the other chunk in flight was finished.
    """
    failed, engines, waiting = threading.Event(), threading.Lock(), deque(enumerate(items))

    def run() -> tuple[int, Whole] | None:
        with engines:  # taken in here, so that two threads do not change the order
            if failed.is_set():
                return None
            number, item = waiting.popleft()
            half = _flagged(failed, lambda: answer(item))
        return number, _flagged(failed, lambda: commit(item, half))

    with ThreadPoolExecutor(2, "chunk") as pool:
        futures = [pool.submit(_inheriting(spark, run)) for _ in range(len(waiting))]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:  # also when interrupted
            failed.set()
            pool.shutdown(wait=True, cancel_futures=True)
    errors = [e for e in (None if x.cancelled() else x.exception() for x in futures) if e is not None]
    if errors:
        raise errors[0]
    done = [pair for future in futures if (pair := future.result()) is not None]
    return [whole for _, whole in sorted(done, key=lambda pair: pair[0])]


def _flagged(failed: threading.Event, step: Callable[[], Half]) -> Half:
    """Do a step; if it fails, say so before the other thread can begin anything."""
    try:
        return step()
    except BaseException:  # Ctrl-C too must stop the other thread
        failed.set()
        raise


def _inheriting(spark: "SparkSession", run: Callable[[], Whole]) -> Callable[[], Whole]:
    """Give a thread this thread's Spark properties: job group, scheduler pool, tags.

    A copy for every call: Spark keeps the number of a running query among them, and two threads may not share that.
    """
    from pyspark import inheritable_thread_target

    wrapped: Callable[[], Whole] = inheritable_thread_target(spark)(run)
    return wrapped
