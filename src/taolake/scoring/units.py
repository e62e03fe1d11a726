"""Units of measure beside a number, and what they are in others of their kind. A small table, not a library.

Covered: length, mass, time, digital storage (1000 and 1024), percent, money (a currency's symbol and its code are one
unit; nothing is exchanged), and the multipliers k, M, bn before any of them. Not covered: temperature (its scales do
not share a zero), areas, speeds, compound units such as 5 ft 3 in. Symbols that differ by case only (MB, Mb) are told
apart, words (Meters) are not. `m` is metre, so that five million is written 5M or 5 million.
"""

import re
from typing import NamedTuple


class Unit(NamedTuple):
    """A unit's kind, and how many of the kind's base unit it is."""

    kind: str
    factor: float


_TABLE: dict[str, dict[str, float]] = {
    "share": {"%": 0.01, "percent": 0.01, "per cent": 0.01, "pct": 0.01, "‰": 0.001, "bp": 1e-4, "bps": 1e-4},
    "length": {
        "mm": 1e-3, "cm": 1e-2, "m": 1, "km": 1e3, "in": 0.0254, "ft": 0.3048, "yd": 0.9144, "mi": 1609.344,
        "millimetre": 1e-3, "centimetre": 1e-2, "metre": 1, "kilometre": 1e3, "millimeter": 1e-3, "centimeter": 1e-2,
        "meter": 1, "kilometer": 1e3, "inch": 0.0254, "inches": 0.0254, "foot": 0.3048, "feet": 0.3048, "yard": 0.9144,
        "mile": 1609.344, "µm": 1e-6, "nm": 1e-9,
    },
    "mass": {
        "mg": 1e-6, "g": 1e-3, "kg": 1, "t": 1e3, "lb": 0.45359237, "lbs": 0.45359237, "oz": 0.028349523125,
        "milligram": 1e-6, "gram": 1e-3, "kilogram": 1, "tonne": 1e3, "pound": 0.45359237, "ounce": 0.028349523125,
    },
    "time": {
        "ms": 1e-3, "s": 1, "sec": 1, "min": 60, "h": 3600, "hr": 3600, "d": 86400, "day": 86400, "wk": 604800,
        "millisecond": 1e-3, "second": 1, "minute": 60, "hour": 3600, "week": 604800,
    },
    "storage": {
        "B": 1, "KB": 1e3, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "PB": 1e15, "KiB": 2**10, "MiB": 2**20,
        "GiB": 2**30, "TiB": 2**40, "byte": 1, "kilobyte": 1e3, "megabyte": 1e6, "gigabyte": 1e9, "terabyte": 1e12,
        "bit": 0.125, "Kb": 125, "kb": 125, "Mb": 125e3, "Gb": 125e6,
    },
}  # fmt: skip
_MONEY = {
    "USD": ("$", "US$", "dollar"), "EUR": ("€", "euro"), "GBP": ("£", "pound sterling"), "JPY": ("¥", "yen"),
    "INR": ("₹", "rupee"), "CHF": ("franc",), "CNY": ("RMB", "yuan"), "KRW": ("₩", "won"), "BRL": ("R$",),
    "CAD": ("C$",), "AUD": ("A$",),
}  # fmt: skip
_MULTIPLIERS = {
    "k": 1e3, "K": 1e3, "M": 1e6, "mn": 1e6, "mio": 1e6, "bn": 1e9, "B": 1e9, "tn": 1e12,
    "thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12,
}  # fmt: skip

UNITS = {name: Unit(kind, factor) for kind, names in _TABLE.items() for name, factor in names.items()}
UNITS |= {name: Unit(code, 1.0) for code, names in _MONEY.items() for name in (code, *names)}
_ANY_CASE = {name: unit for name, unit in UNITS.items() if len(name) > 3}
_ANY_CASE |= {name: UNITS[name] for name in ("km", "cm", "kg", "lb", "lbs", "oz", "ft", "min", "hr", "day", "yen")}
_BEFORE = re.compile(r"((?:US|[RCA])?[$]|[€£¥₹₩]|\b[A-Z]{3})\s?[-+\u2212]?\s?\Z")
_AFTER = re.compile(r"\s?-?((?:per cent|pound sterling)s?\b|[^\W\d_]+|[%‰$€£¥₹₩])")


def find_unit(name: str) -> Unit | None:
    """A unit by its symbol or word, singular or plural; None where the table does not have it."""
    if name in UNITS:
        return UNITS[name]
    word = name.casefold()
    return _ANY_CASE.get(word) or _ANY_CASE.get(word.removesuffix("s")) or UNITS.get(name.removesuffix("s"))


def read_unit(text: str, start: int, end: int) -> tuple[float, Unit | None]:
    """The multiplier and the unit that stand beside the number at `text[start:end]`, before it (money) or after it."""
    before = _BEFORE.search(text[:start])
    unit = find_unit(before[1]) if before else None
    found = _AFTER.match(text, end)
    if found is None:
        return 1.0, unit
    factor = _MULTIPLIERS.get(found[1], _MULTIPLIERS.get(found[1].casefold()) if len(found[1]) > 1 else None)
    after = find_unit(found[1])
    if factor is not None and (unit is not None or after is None):  # $5B is money; 5 B are bytes
        return factor, unit or _next_unit(text, found.end())
    return 1.0, unit or after


def _next_unit(text: str, end: int) -> Unit | None:
    found = _AFTER.match(text, end)
    return find_unit(found[1]) if found else None
