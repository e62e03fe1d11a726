"""What a child process gives up before it touches anything a model wrote. Called in the child, once, at its start.

Not portable: resource limits hold on Linux; macOS keeps none on memory, and `die_with_parent` does nothing there (the
child then ends when its pipe closes). Standard library only: a child that must start fast imports this.
"""

import ctypes
import os
import resource
import signal
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when process `parent` (its thread that started this one) ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the line above
        os._exit(1)


def limit_files(largest: int) -> None:
    """No file may grow past `largest` bytes by this process's hand, and it leaves no core dump."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def limit_memory(megabytes: int) -> None:
    """Allow so much address space beyond what is mapped now, which is the interpreter and its libraries."""
    if sys.platform == "linux":
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        limit = mapped + (megabytes << 20)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
