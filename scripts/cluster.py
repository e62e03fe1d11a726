"""A real Spark standalone cluster on this machine, for as long as a command runs: one master and some workers.

    python scripts/cluster.py -- taolake run conf/mine.yml
    python scripts/cluster.py --workers 4 --memory 4g

The first form runs the command on the cluster and ends with its exit code; the second stays until it is interrupted and
says what to set. Everything comes from the installed PySpark and listens on the loopback address only, without
authentication: this is for trying a round on a cluster, not for running one for others.
"""

import argparse
import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HOST = "127.0.0.1"
START_S = 90.0
STOP_S = 15.0
# Small daemons: what works is the executors, and each has its own JVM.
DAEMON = {"SPARK_DAEMON_MEMORY": "256m", "SPARK_DAEMON_JAVA_OPTS": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"}


@contextlib.contextmanager
def cluster(folder: Path, workers: int, cores: int, memory: str) -> Iterator[str]:
    """Start a master and its workers, and stop them afterwards; gives the master's URL.

    Args:
        folder: for logs (`master.log`, `worker-N.log`) and what executors leave (`worker-N/`).
        workers: how many; each starts one executor for an application.
        cores: tasks at a time on each.
        memory: for executors on each, in Spark's notation; an executor asks for 1g unless told otherwise.

    Raises:
        RuntimeError: a process ended, or the workers did not register in time; the message ends with the log's end.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port, page = free_port(), free_port()
    url = f"spark://{HOST}:{port}"
    asked = f"org.apache.spark.deploy.master.Master --host {HOST} --port {port} --webui-port {page}".split()
    with contextlib.ExitStack() as started:
        logs = {folder / "master.log": started.enter_context(daemon(folder / "master.log", *asked))}
        wait_for(page, 0, logs)
        for number in range(workers):
            log, place = folder / f"worker-{number}.log", str((folder / f"worker-{number}").resolve())
            asked = ["org.apache.spark.deploy.worker.Worker", "--host", HOST, "--webui-port", str(free_port())]
            asked += ["--cores", str(cores), "--memory", memory, "--work-dir", place, url]
            logs[log] = started.enter_context(daemon(log, *asked))
        wait_for(page, workers, logs)
        yield url


@contextlib.contextmanager
def daemon(log: Path, *asked: str) -> Iterator["subprocess.Popen[bytes]"]:
    """One of Spark's own processes, ended with everything below it."""
    import pyspark

    home = Path(pyspark.__file__).parent
    settings = {"SPARK_HOME": str(home), "SPARK_LOCAL_IP": HOST, "PYSPARK_PYTHON": sys.executable}
    with log.open("wb") as handle:
        process = subprocess.Popen(
            [str(home / "bin" / "spark-class"), *asked],
            stdin=subprocess.DEVNULL, stdout=handle, stderr=subprocess.STDOUT, env=os.environ | settings | DAEMON,
            start_new_session=True, preexec_fn=end_with_parent,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()  # a worker ends its executors on this signal
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def end_with_parent() -> None:
    """Ask the kernel to end this process when the script dies, however it dies; Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def free_port() -> int:
    """A port nothing listens on now."""
    with socket.socket() as some:
        some.bind((HOST, 0))
        return int(some.getsockname()[1])


def wait_for(page: int, workers: int, logs: "dict[Path, subprocess.Popen[bytes]]") -> None:
    """Wait until the master's page counts so many workers."""
    deadline = time.monotonic() + START_S
    while (alive := alive_workers(page)) != workers:
        ended = [log for log, process in logs.items() if process.poll() is not None]
        if ended or time.monotonic() > deadline:
            log = ended[0] if ended else next(reversed(logs))
            said = "ended" if ended else f"got {alive or 0} workers in {START_S:.0f} s, wanted {workers}"
            raise RuntimeError(f"the cluster did not start: {said}; the end of {log}:\n{log.read_text()[-2000:]}")
        time.sleep(0.2)


def alive_workers(page: int) -> int | None:
    """What the master's page says; None while it does not answer."""
    try:
        with urllib.request.urlopen(f"http://{HOST}:{page}/json/", timeout=5) as answer:
            said: Any = json.load(answer)
    except (OSError, ValueError):
        return None
    return int(said["aliveworkers"])


def main() -> int:
    """Parse the command line; returns the exit code."""
    lines = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(description=lines[0], usage="cluster.py [options] [-- COMMAND ...]")
    parser.add_argument("--workers", type=int, default=2, help="how many (2)")
    parser.add_argument("--cores", type=int, default=1, help="tasks at a time on each (1)")
    parser.add_argument("--memory", default="2g", help="for executors on each (2g)")
    parser.add_argument("--folder", type=Path, default=Path("build/cluster"), help="logs (build/cluster)")
    parser.add_argument("command", nargs="*", help="what to run on it; none: stay until interrupted")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with cluster(asked.folder, asked.workers, asked.cores, asked.memory) as url:
        settings = {"TAOLAKE_MASTER": url, "SPARK_LOCAL_IP": HOST}
        if asked.command:
            return subprocess.run(asked.command, env=os.environ | settings).returncode
        print("\n".join(f"export {name}={value}" for name, value in settings.items()), flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()
    return 0


if __name__ == "__main__":
    sys.exit(main())
