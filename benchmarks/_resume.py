"""A benchmark of hours that was cut off goes on where it stopped; one that came to its end begins anew.

A figure counts only if the run that reports it measured it, so what an interrupted run left is used by the same code
alone: any change to the package, the project files or the benchmarks themselves clears it.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from taolake.ids import content_hash, file_hash

ROOT = Path(__file__).parents[1]
_MARK = ".begun"


@contextmanager
def one_run(folder: Path, *made: str, quick: bool) -> Iterator[None]:
    """Clear what earlier runs made, unless one of the same code was cut off; it goes on then.

    Args:
        folder: where the benchmark works.
        made: globs under it of what a run makes; the rest, such as pre-trained bases, stays.
        quick: whether this is a quick run; what one left is not for a full one.
    """
    mark, code = folder / _MARK, f"{_code()} {'quick' if quick else 'full'}"
    if not mark.exists() or mark.read_text(encoding="utf-8") != code:
        mark.unlink(missing_ok=True)  # before clearing: a run killed in the midst of it leaves nothing to go on with
        for path in (path for pattern in made for path in folder.glob(pattern)):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        folder.mkdir(parents=True, exist_ok=True)
        mark.write_text(code, encoding="utf-8")
    yield
    mark.unlink()


def _code() -> str:
    """Everything that can change a figure, but for the libraries."""
    files = [*ROOT.glob("src/**/*"), *ROOT.glob("conf/*"), *ROOT.glob("benchmarks/*.py")]
    kept = sorted(f for f in files if f.is_file() and f.suffix != ".pyc")
    return content_hash([[str(file.relative_to(ROOT)), file_hash(file)] for file in kept])
