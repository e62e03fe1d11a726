"""The card as one self-contained HTML page: no request leaves it, no script runs in it.

Prompts and answers are untrusted: the template escapes everything, and a content policy in the page forbids what
escaping might miss. Markup that is passed through comes from `plots` alone, which escapes its own text.
"""

import math
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined, Template
from markupsafe import Markup

from taolake.report.plots import Axis, Bar, Line, Series, bars, curve, histogram, plane

_SPACE = "\u00a0"  # keeps a number and its unit on one line


def render(card: Mapping[str, Any]) -> str:
    """Render a card as an HTML document."""
    more = trust_charts(card.get("trust"), card.get("over_optimisation"))
    return template("page.html.j2").render(card=card, headline=headline(card), charts=charts(card) | more) + "\n"


def headline(card: Mapping[str, Any]) -> str:
    """The card in one sentence."""
    base, tuned = card["policies"]["base"], card["policies"]["tuned"]
    after, before = percent(tuned["greedy"]["mean"]), percent(base["greedy"]["mean"])
    if card["result"] == "no gain":
        if base["id"] == tuned["id"]:
            return f"No gain: base and tuned are the same model, which answers {after} right at the first try."
        low, high = card["gain"]["ci"]
        interval = f"{points(card['gain']['mean'])} points [{points(low)} to {points(high)}]"
        return (
            f"No gain: the tuned model answers {after} right at the first try, the base {before}; "
            f"the difference of {interval} could be chance."
        )
    if card["result"] == "worse":
        return f"Worse: the tuned model answers {after} right at the first try, down from {before}."
    said = f"The tuned model answers {after} right at the first try, up from {before}"
    best, share = base["best_of_n"], card["bake_in_ratio"]
    if best is None:
        return f"{said}."
    said += f"; best-of-{best['n']} found {percent(best['mean'])}"
    if share is None:
        return f"{said}."
    part = "all" if share >= 1 else percent(share, 0)
    return f"{said}: {part} of that lead is now in the weights."


def charts(card: Mapping[str, Any]) -> dict[str, Markup | None]:
    """Every chart of the page by name; None where the card has no numbers for it."""
    base, tuned = card["policies"]["base"], card["policies"]["tuned"]
    best = base["best_of_n"]
    rows = [
        _bar("Base, one answer", base["greedy"], "base"),
        *([_bar(f"Base, best of {best['n']}", best, "best")] if best else []),
        _bar("Tuned, one answer", tuned["greedy"], "tuned"),
    ]
    ks = sorted(int(k) for k in base["pass_at"].keys() & tuned["pass_at"].keys())
    lines = [
        Series(label, [p["pass_at"][str(k)] for k in ks], style)
        for label, p, style in (("Base", base, "base"), ("Tuned", tuned, "tuned"))
    ]
    reward, length = card["reward_histogram"], card["length_histogram"]
    return {
        "bars": Markup(bars("Right answers on held-out prompts", rows)),
        "curve": Markup(curve("Right at least once in k attempts", ks, lines)) if ks else None,
        "compute": _compute(card["compute"]) if card.get("compute") else None,
        "reward": _histogram("Rewards of sampled answers", "reward", reward),
        "length": _histogram("Lengths of sampled answers", "tokens", length),
    }


def trust_charts(trust: Mapping[str, Any] | None, over: Mapping[str, Any] | None) -> dict[str, Markup | None]:
    """Charts of the trust section, on the card and on its own page."""
    return {
        "reliability": _reliability(trust["reward"]) if trust else None,
        "over": _over_optimisation(over) if over else None,
    }


def percent(share: float | None, digits: int = 1) -> str:
    """A share as `62.5 %`."""
    return "not measured" if share is None else f"{100 * share:.{digits}f}{_SPACE}%"


def points(share: float) -> str:
    """A difference of shares in percentage points, signed."""
    return f"{100 * share:+.1f}".replace("-", "\u2212")


def whole(number: float | None) -> str:
    """A whole number with its thousands apart."""
    return "not known" if number is None else f"{number:,.0f}".replace(",", "\u202f")


def duration(seconds: float) -> str:
    """Seconds in the largest fitting units."""
    if seconds < 60:
        return f"{seconds:.1f}{_SPACE}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}{_SPACE}h {minutes:02d}{_SPACE}min" if hours else f"{minutes}{_SPACE}min {rest:02d}{_SPACE}s"


def memory(size: int) -> str:
    """Bytes in gigabytes, or megabytes below one."""
    return f"{size / 1e9:.1f}{_SPACE}GB" if size >= 1e9 else f"{size / 1e6:.0f}{_SPACE}MB"


def chance(p: float) -> str:
    """A p-value with two digits, or its bound."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def dollars(amount: float) -> str:
    """Money; small amounts keep their digits."""
    return f"${amount:,.2f}" if amount >= 1 or not amount else f"${amount:.4f}"


@cache
def template(name: str) -> Template:
    """A template of this package; what it includes is beside it."""
    folder = resources.files(__package__)
    loader = FunctionLoader(lambda part: folder.joinpath(part).read_text(encoding="utf-8"))
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {f.__name__: f for f in (percent, points, whole, duration, memory, chance, dollars)}
    return environment.get_template(name)


def _bar(label: str, stat: Mapping[str, float], style: str) -> Bar:
    return Bar(label, stat["mean"], stat["low"], stat["high"], style)


def _compute(found: Mapping[str, Any]) -> Markup:
    """Right answers over the tokens spent: by search, and in the weights."""

    def at(tokens: int, right: Mapping[str, float]) -> tuple[float, float, float, float]:
        return tokens / scale, 100 * right["mean"], 100 * right["low"], 100 * right["high"]

    widest = max(each["tokens"] for each in [*found["search"], *found["tuned"]])
    scale, unit = (1e6, "million") if widest >= 2e6 else (1e3, "thousand")
    lines = [
        Line("tuned", [at(each["tokens"], each["right"]) for each in found["tuned"]], "tuned"),
        Line("base", [at(0, found["base"]["right"])], "base"),
    ]
    if found["search"]:
        most = found["search"][-1]["k"]
        lines.append(Line(f"best of {most}", [at(p["tokens"], p["right"]) for p in found["search"]], "best"))
    x = Axis(f"{unit} tokens spent on tuning", 0, max(widest / scale, 1e-3), ticks(widest / scale))
    return Markup(plane("Right answers over tuning compute", x, Axis("right in %", 0, 100, range(0, 101, 25)), lines))


def ticks(widest: float) -> list[float]:
    """Round numbers from 0 to an axis' end, six at most."""
    scale = 10.0 ** math.floor(math.log10(widest)) if widest > 0 else 1.0
    step = scale * next(s for s in (0.2, 0.5, 1, 2) if s * scale * 5 >= widest)
    return [step * i for i in range(int(widest / step + 1e-9) + 1)]


def _histogram(title: str, unit: str, found: Mapping[str, Any]) -> Markup | None:
    series: Sequence[Series] = [Series("Base", found["base"], "base"), Series("Tuned", found["tuned"], "tuned")]
    if not any(any(line.values) for line in series):
        return None
    return Markup(histogram(title, unit, found["edges"], series))


def _reliability(reward: Mapping[str, Any] | None) -> Markup | None:
    """What the reward claims against what people did, before and after calibration."""
    if not reward or reward["ece_before"] is None:
        return None
    lines = [
        Line(
            label, [tuple(100 * b[name] for name in ("claimed", "right", "low", "high")) for b in found["bins"]], style
        )
        for label, style, found in (("before", "base", reward["ece_before"]), ("after", "tuned", reward["ece_after"]))
        if found
    ]
    axes = Axis("claimed chance in %", 50, 100, range(50, 101, 10)), Axis("right in %", 0, 100, range(0, 101, 25))
    return Markup(plane("Claimed chance and what people did", *axes, lines, diagonal=True))


def _over_optimisation(over: Mapping[str, Any]) -> Markup:
    """Reward and gate score over the distance from the base."""
    rows, tuned = over["points"], over["tuned"]
    lines = [
        Line(label, [(p["kl"], *(p[part][name] for name in ("mean", "low", "high"))) for p in rows], style)
        for label, part, style in (("reward", "proxy", "best"), ("gate", "gate", "tuned"))
    ]
    widest = rows[-1]["kl"]
    if tuned and tuned["kl"] is not None:
        widest = max(widest, min(tuned["kl"], 4 * widest))
        lines.append(Line("tuned, gate", [(tuned["kl"], *(tuned["gate"][n] for n in ("mean", "low", "high")))], "base"))
    x = Axis("nats from the base", 0, widest, ticks(widest))
    return Markup(
        plane("Reward and gate score, as the reward is pushed", x, Axis("score", 0, 1, (0, 0.25, 0.5, 0.75, 1)), lines)
    )
