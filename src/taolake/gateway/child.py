"""A server as a child that ends, with everything it started, when its parent does, however that ends.

    python -m taolake.gateway.child <command...>

vLLM starts processes of its own, which outlive it when it is killed. So a watcher stands between: it puts the server
into a session, passes a request to stop on, and kills the session when its own standard input ends, which a parent's
death brings about.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from types import FrameType

_LEAVE_S = 10.0  # for a server that was asked to stop


def main() -> int:
    """Run the command until it ends or the parent does."""
    child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, start_new_session=True)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the parent decides

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, stop)
    try:
        while child.poll() is None:
            if select.select([sys.stdin], [], [], 0.5)[0] and not os.read(sys.stdin.fileno(), 1024):
                return 0
        return child.returncode
    finally:
        _end(child)


def _end(child: "subprocess.Popen[bytes]") -> None:
    """Ask, wait, and kill what is left of the session."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGTERM)
        deadline = time.monotonic() + _LEAVE_S
        while time.monotonic() < deadline:
            child.poll()  # or its zombie would keep the session alive
            os.killpg(child.pid, 0)
            time.sleep(0.1)
        os.killpg(child.pid, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
