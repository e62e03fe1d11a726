"""Charts: exact geometry where it carries a number, valid XML, escaped labels, nothing outside the grid."""

import re
from xml.etree import ElementTree

import pytest

from taolake.report.plots import WIDTH, Bar, Series, bars, curve, histogram

LINES = [Series("Base", [0.25, 0.5, 0.75], "base"), Series("Tuned", [0.5, 0.6, 0.74], "tuned")]


def shapes(svg: str, name: str, style: str) -> list[dict[str, str]]:
    found = [e.attrib for e in ElementTree.fromstring(svg).iter(name) if style in e.attrib.get("class", "").split()]
    assert found, f"no {name} of class {style} in {svg}"
    return found


def texts(svg: str) -> list[str]:
    return [e.text or "" for e in ElementTree.fromstring(svg).iter("text")]


def test_bar_width_is_the_share_and_whiskers_are_the_interval() -> None:
    svg = bars("Right", [Bar("Base", 0.25, 0.0, 0.5, "base"), Bar("Tuned", 1.0, 1.0, 1.0, "tuned")])
    base, tuned = shapes(svg, "rect", "base")[0], shapes(svg, "rect", "tuned")[0]
    assert float(base["width"]) == 88 and float(tuned["width"]) == 352
    assert "M4 34.5H180" in shapes(svg, "path", "whisker")[0]["d"]
    assert "25.0\u00a0% [0.0 to 50.0]" in texts(svg)


@pytest.mark.parametrize(("share", "width"), [(-0.2, 0.0), (0.0, 0.0), (1.2, 352.0)])
def test_bars_stay_on_the_axis(share: float, width: float) -> None:
    svg = bars("Right", [Bar("Odd", share, share, share, "base")])
    assert float(shapes(svg, "rect", "base")[0]["width"]) == width


def test_every_chart_has_a_title_a_description_and_a_label() -> None:
    one = [Bar("B", 0.5, 0.4, 0.6, "base")]
    for svg in (bars("T", one), curve("T", [1, 2, 4], LINES), histogram("T", "u", [0, 1, 2, 3], LINES)):
        root = ElementTree.fromstring(svg)
        assert root.attrib["role"] == "img" and root.attrib["aria-label"].startswith("T: ")
        assert [child.tag for child in root][:2] == ["title", "desc"] and root[1].text


def test_labels_are_escaped() -> None:
    svg = bars("<script>&\"'", [Bar("<b>", 0.5, 0.4, 0.6, "base")])
    assert "<script>" not in svg and "<b>" not in svg
    assert "<b>" in texts(svg)


def test_curve_puts_values_where_they_belong() -> None:
    svg = curve("Pass", [1, 2, 4], LINES)
    squares, circles = shapes(svg, "rect", "base"), shapes(svg, "circle", "tuned")
    assert [float(s["y"]) + 3.5 for s in squares] == [162, 112, 62]
    assert [float(c["cx"]) for c in circles] == [46, 149, 252]


def test_curve_labels_do_not_cover_each_other() -> None:
    svg = curve("Pass", [1, 2, 4], LINES)
    ys = [float(t["y"]) for t in shapes(svg, "text", "end")]
    assert abs(ys[0] - ys[1]) >= 15


def test_curve_of_one_k_is_drawn() -> None:
    svg = curve("Pass", [1], [Series("Base", [0.5], "base")])
    assert float(shapes(svg, "rect", "base")[0]["x"]) == 42.5


def test_histogram_heights_are_shares_of_each_series() -> None:
    series = [Series("Base", [1, 3], "base"), Series("Tuned", [0, 10], "tuned")]
    svg = histogram("Rewards", "reward", [0, 0.5, 1], series)
    base, tuned = shapes(svg, "rect", "base"), shapes(svg, "rect", "tuned")
    assert [float(b["height"]) for b in base] == [40, 120]
    assert [float(t["height"]) for t in tuned] == [160], "an empty bin draws nothing"


def test_histogram_without_a_single_value_is_still_a_chart() -> None:
    assert "rect" not in histogram("Rewards", "reward", [0, 1], [Series("Base", [0], "base")])


def test_no_text_leaves_the_grid() -> None:
    edges = [i * 100 for i in range(17)]
    wide = [Series("Base", [1.0] * 16, "base"), Series("Tuned", [1.0] * 16, "tuned")]
    full = [Series("Tuned", [1.0, 1.0, 1.0], "tuned")]
    for svg in (curve("T", [1, 2, 4], full), histogram("T", "tokens", edges, wide)):
        for attributes in (e.attrib | {"text": e.text or ""} for e in ElementTree.fromstring(svg).iter("text")):
            width = 6.9 * len(attributes["text"])
            left = float(attributes["x"]) - {"start": 0, "middle": width / 2, "end": width}[attributes["text-anchor"]]
            assert left >= -8 and left + width <= WIDTH + 8, attributes


def test_equal_input_gives_equal_text() -> None:
    assert curve("T", [1, 2, 4], LINES) == curve("T", [1, 2, 4], LINES)
    assert not re.search(r"http|<script", curve("T", [1, 2, 4], LINES))
