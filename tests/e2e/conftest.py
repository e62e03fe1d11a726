"""What several tests of trainers share: a training that is killed and started again."""

from collections.abc import Callable
from typing import Any

import pytest

from taolake.training.job import TrainJob


class Killed(Exception):
    pass


@pytest.fixture
def restarted(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[TrainJob], Any], TrainJob, int], Any]:
    """Run a job in this process, end it after so many steps in all, run it again; returns what the second run gave."""
    from taolake.training import checkpoint

    def run_twice(run: Callable[[TrainJob], Any], job: TrainJob, step: int) -> Any:
        def on_step_end(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == step:
                raise Killed

        with monkeypatch.context() as patched, pytest.raises(Killed):
            patched.setattr(checkpoint.Progress, "on_step_end", on_step_end)
            run(job)
        return run(job)

    return run_twice
