"""What a scorer may spend: calls are reserved at their upper bound before they are asked, so that no budget is passed.

Not here: what a call costs in the end, which the server says, and the calls themselves (`taolake.stages.calls`).
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass
class Purse:
    """What a scorer has spent in a round, and what it may. A call is reserved at its upper bound before it is asked."""

    price: tuple[float, float] = (0.0, 0.0)  # dollars per million tokens, in and out
    max_dollars: float | None = None
    max_tokens: int | None = None
    answer_tokens: int = 0
    dollars: float = 0.0
    tokens: int = 0
    slack: int = 0  # tokens a call was seen to take beyond its bound

    def fitting(self, bounds: Mapping[str, int]) -> list[str]:
        """The calls, from the first on, that cannot pass the budget whatever they turn out to cost."""
        dollars, tokens, fit = self.dollars, self.tokens, list[str]()
        for call, bound in bounds.items():
            asked = bound + self.slack
            dollars += cost(self.price, asked, self.answer_tokens)
            tokens += asked + self.answer_tokens
            if self.max_dollars is not None and dollars > self.max_dollars:
                break
            if self.max_tokens is not None and tokens > self.max_tokens:
                break
            fit.append(call)
        return fit

    def pay(self, dollars: float, tokens: int, reserved: int, calls: int) -> None:
        """Book what calls came to; a bound that was too low is raised for those to come."""
        self.dollars += dollars
        self.tokens += tokens
        self.slack += max(0, -(-(tokens - reserved) // max(1, calls)))

    def __str__(self) -> str:
        of_dollars = "" if self.max_dollars is None else f" of {self.max_dollars:g}"
        of_tokens = "" if self.max_tokens is None else f" of {self.max_tokens}"
        return f"{self.dollars:.4f}{of_dollars} dollars and {self.tokens}{of_tokens} tokens"


def cost(price: tuple[float, float], asked: int, answered: int) -> float:
    """Dollars of a call, at dollars per million tokens in and out."""
    return (price[0] * asked + price[1] * answered) / 1e6
