"""When two questions have the same form."""

import pytest

from taolake.stages.trigger import form


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("How many orders has customer 17?", "how many orders has customer 4?", True),
        ("Orders of 'Smith & Co'?", 'Orders of "Doe"?', True),
        ("Revenue in Q1 2024", "Revenue in Q3 2025", True),
        ("How many orders?", "How many customers?", False),
        ("It's Ann's turn and 'x'", "It's Ann's turn", False),
    ],
)
def test_numbers_and_quoted_names_make_no_new_form(one: str, other: str, alike: bool) -> None:
    assert (form(one) == form(other)) is alike
