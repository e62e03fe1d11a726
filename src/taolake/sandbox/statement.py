"""What the text of a query tells before it runs: that it is one SELECT, what it unfolds to, whether it asks for order.

Not a parser: words and marks, with comments and constants known as such. The engines parse; this is the first line.
"""

import math
import re
from collections import Counter
from itertools import pairwise
from typing import Literal

MAX_QUERY_CHARS = 20_000
MAX_COPIES = 50_000  # SQLite copies a CTE at every reference: 2^16 copies took 0.8 s, 2^30 would take the memory

_TOKEN = re.compile(
    r"""--[^\n]*|/\*.*?(?:\*/|\Z)|(?P<text>'(?:[^']|'')*'|\$\$.*?\$\$)"""
    r"""|["`](?P<name>[^"`]+)["`]|(?P<word>\w+)|(?P<mark>\S)""",
    re.DOTALL,
)
_CTE_DEFINED = re.compile(r"(?<!\S)(?:with|recursive|,) (\w+) (?:\( [^()]*\) )?as (?:not )?(?:materialized )?\(")
_TABLE_USED = re.compile(r"(?<!\S)(?:from|join|,|\() (?=(\w+) (?!\. |\( |as (?:not |materialized )*\( ))")


class QueryError(ValueError):
    """The query, not the machine, is at fault. `status` is `error` (wrong, refused, too large) or `timeout`."""

    def __init__(self, message: str, status: Literal["error", "timeout"] = "error") -> None:
        super().__init__(message, status)  # both, so that it survives pickling between processes
        self.status: Literal["error", "timeout"] = status

    def __str__(self) -> str:
        return str(self.args[0])


def require_one_select(sql: str) -> None:
    """Refuse a text that is not one SELECT, or that unfolds to too much.

    Raises:
        QueryError: what it is instead.
    """
    if len(sql) > MAX_QUERY_CHARS:
        raise QueryError(f"got {len(sql)} characters, wanted a query of at most {MAX_QUERY_CHARS}")
    if re.search("[\0\ud800-\udfff]", sql):
        raise QueryError("got a NUL or a lone surrogate, wanted text")
    tokens = _tokens(sql)
    while tokens and tokens[-1] == ";":
        tokens.pop()
    if ";" in tokens:
        raise QueryError("got several statements, wanted one SELECT")
    first = next((token for token in tokens if token != "("), "nothing")
    if first not in ("select", "with"):
        raise QueryError(f"got a statement that starts with {first[:40]!r}, wanted SELECT or WITH")
    text = " ".join(tokens)
    uses = Counter(_TABLE_USED.findall(text))
    if math.prod(max(1, uses[name]) for name in _CTE_DEFINED.findall(text)) > MAX_COPIES:
        raise QueryError(f"got common table expressions that unfold to over {MAX_COPIES} copies; nest fewer of them")


def is_ordered(sql: str) -> bool:
    """Whether ORDER BY stands outside all parentheses: not in a window, a subquery or an aggregate."""
    if "order" not in sql.lower():
        return False
    depth = 0
    for token, after in pairwise(_tokens(sql)):
        depth += (token == "(") - (token == ")")
        if depth == 0 and (token, after) == ("order", "by"):
            return True
    return False


def _tokens(sql: str) -> list[str]:
    """Words and marks in lower case, quoted names as one word, string constants as `'`; comments are left out."""
    found = [match for match in _TOKEN.finditer(sql) if match.lastgroup]
    return ["'" if m["text"] else re.sub(r"(?<=.)\W", "_", m[m.lastgroup or 0].lower()) for m in found]
