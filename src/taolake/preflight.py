"""Is this machine able to run taolake? Standard library only: `make` runs this file before anything is installed.

Not here: what is installed inside the environment; the locks in `requirements/` answer for that.
"""

import os
import re
import shutil
import subprocess
import sys

PYTHON = (3, 11)
TOO_NEW = (3, 13)
JAVA = 17
MEMORY_GB = 8


def require_python():
    # type: () -> None
    """Refuse a Python the locks are not made for."""
    got = sys.version_info[:2]
    if not PYTHON <= got < TOO_NEW:
        raise RuntimeError(
            "got Python %d.%d, wanted 3.11 or 3.12: install python3.11 and python3.11-venv, then make PYTHON=python3.11"
            % got
        )


def require_java():
    # type: () -> None
    """Refuse a machine without a Java that Spark 4 runs on."""
    home = os.environ.get("JAVA_HOME", "")
    java = os.path.join(home, "bin", "java") if home else shutil.which("java")
    advice = "Spark needs Java %d or newer: install openjdk-%d-jre-headless, or set JAVA_HOME" % (JAVA, JAVA)
    if not java or not os.path.exists(java):
        raise RuntimeError("got no java%s; %s" % (" at " + java if java else "", advice))
    text = subprocess.run([java, "-version"], stderr=subprocess.PIPE, universal_newlines=True).stderr
    found = re.search(r'version "(\d+)', text)
    if not found or int(found.group(1)) < JAVA:
        raise RuntimeError("got %s; %s" % (text.strip().splitlines()[0] if text.strip() else "no answer", advice))


def require_memory(path="/proc/meminfo"):
    # type: (str) -> None
    """Refuse a machine whose available memory a round would not fit in; where it cannot be read, go on."""
    if not os.path.exists(path):
        return
    with open(path) as handle:
        found = re.search(r"MemAvailable:\s+(\d+) kB", handle.read())
    if found and int(found.group(1)) < MEMORY_GB * 2**20:
        got = int(found.group(1)) / 2**20
        raise RuntimeError(
            "got %.1f GiB of available memory, wanted %d: close programs, or use a larger machine" % (got, MEMORY_GB)
        )


def main():
    # type: () -> int
    """Check everything; one line for the first thing that is wrong."""
    try:
        require_python()
        require_java()
        require_memory()
    except RuntimeError as error:
        print("taolake: %s" % error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
