"""Does a scorer deserve to train a model? Measured against choices people made and no training saw.

`sample` lines pairs up with scores, `measures` and `biases` turn them into numbers with intervals, `findings` says
which of them speak against training, `curve` holds the reward against the gate's scorer. No Spark, no torch.
"""

from collections.abc import Mapping
from typing import Any


class TrustError(RuntimeError):
    """The reward must not train a model; the message names the number, its limit and what to do about it.

    Args:
        message: one sentence a finding.
        detail: what was measured, for the books.
    """

    def __init__(self, message: str, detail: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.detail = dict(detail)
