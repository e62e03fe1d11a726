"""Quality against tuning compute, the card's `compute`: what the tokens of tuning bought, in right answers.

Two curves over the tokens spent. *Search*: the base's best of k answers picked by the reward, which is what k answers a
prompt give training to imitate. *Tuned*: one answer of each round's model, after the tokens that all rounds up to it
wrote and trained on. Made from `rounds` and `evaluations`; the estimators are those of the card's other numbers.
"""

from collections.abc import Callable, Mapping
from typing import Any

from taolake.report.measures import Draws, Measured, stat
from taolake.trust.curve import GATE

Done = Mapping[int, Mapping[str, Mapping[str, Any]]]  # round -> stage -> what it wrote down


def section(done: Done, number: int, measured: Callable[[str, str], Measured], draws: Draws) -> dict[str, Any] | None:
    """The card's `compute` of a round.

    Args:
        done: finished stages of this round and the ones before it, with their detail; other rounds are not looked at.
        number: of the round.
        measured: measurements of a policy in an evaluation, both by id.
        draws: how intervals are drawn.

    Returns:
        JSON: `search`, `base` and `tuned`; None where the round trained nothing, or its selection was made before
        selections counted tokens.
    """
    spent = _spent(done, number)
    if not spent or spent[-1]["round"] != number:
        return None
    first, last = (done[each["round"]] for each in (spent[0], spent[-1]))
    base = measured(last["evaluate"]["evaluation"], last["evaluate"]["base"])
    return {
        "base": _right(measured, first["evaluate"], "base", draws),
        "search": search(base, spent[-1]["before"], last["select"]["prompts"], draws),
        "tuned": [
            {name: each[name] for name in ("round", "tokens", "trained")}
            | _right(measured, done[each["round"]]["evaluate"], "tuned", draws)
            for each in spent
        ],
    }


def search(base: Measured, begin: float, prompts: int, draws: Draws) -> list[dict[str, Any]]:
    """Best of k answers by the reward for k = 1, 2, 4, ..., over all held-out prompts.

    A prompt on which the reward abstains is answered by any sample; one with fewer answers than k by the best of those.

    Args:
        base: measurements of the base.
        begin: tokens spent before the first of these answers.
        prompts: training prompts, each of which costs k answers.
        draws: how intervals are drawn.
    """
    asked = sorted(base["correct"])
    reached = {int(name.removeprefix(GATE)): found for name, found in base.items() if name.startswith(GATE)}
    ks = sorted(k for k, found in reached.items() if 2 * len(found) > len(reached[1]))
    best = {p: base["correct"][p] / base["samples"][p] for p in asked}
    answer = sum(base["tokens"][p] for p in asked) / len(asked)
    points = []
    for k in ks:
        best |= reached[k]
        points.append({"k": k, "tokens": round(begin + k * answer * prompts), "right": stat(best, asked, draws)})
    return points


def _spent(done: Done, number: int) -> list[dict[str, Any]]:
    """Tokens up to each round that trained and measured: those of answers, counted once a base, and of all training;
    `before` are those that its own answers and its training are not among."""
    written: dict[str, int] = {}
    trained, found = 0, []
    for each in sorted(r for r in done if r <= number):
        stages = done[each]
        if not {"select", "train", "evaluate"} <= stages.keys() or "answer_tokens" not in stages["select"]:
            continue
        base = stages["evaluate"]["base"]
        # Of the same base asked more this holds all; fewer are left where prompts were forgotten, and were paid for.
        written[base] = max(written.get(base, 0), stages["select"]["answer_tokens"])
        now = stages["train"].get("metrics", {}).get("tokens", 0)
        trained += now
        tokens = sum(written.values()) + trained
        found.append({"round": each, "tokens": tokens, "trained": now, "before": tokens - now - written[base]})
    return found


def _right(measured: Callable[[str, str], Measured], said: Mapping[str, Any], who: str, draws: Draws) -> dict[str, Any]:
    """One greedy answer of a policy, over the prompts of its own evaluation."""
    greedy = measured(said["evaluation"], said[who]).get("greedy", {})
    return {"right": stat(greedy, sorted(greedy), draws), "prompts": len(greedy)}
