"""Keeps heavy packages out of an import that would only try whether they are there."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without(*packages: str) -> Iterator[None]:
    """Let imports inside believe that packages are not installed; those that are loaded already stay.

    None in `sys.modules` is Python's documented way to say so. Afterwards they can be imported again, as a project's
    own scorer may want to.
    """
    hidden = [name for name in packages if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in hidden:
            sys.modules.pop(name, None)
