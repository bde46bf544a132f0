"""Reports and plots: they say what they were given, load nothing, escape everything, and can be read by everyone."""

from __future__ import annotations

import itertools
import re
from html.parser import HTMLParser
from math import inf
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pintpot.errors import BadInput
from pintpot.proof import html, scale, svg, tables
from pintpot.proof.proof import Row
from pintpot.proof.report import between
from pintpot.units import format_bytes, format_span

HOSTILE = "<script>alert('1')</script> & \"quotes\" ]]> ✓"
MB = 10**6


def plain(value: float) -> str:
    return f"{value:g}"


def tree(markup: str) -> ElementTree.Element:
    """A plot's svg as XML; what does not parse raises."""
    return ElementTree.fromstring(markup[: markup.rindex("</svg>") + 6])


def elements(markup: str, kind: str) -> list[ElementTree.Element]:
    return [one for one in tree(markup).iter() if kind in one.get("class", "").split()]


def percent(one: ElementTree.Element, key: str) -> float:
    return float(one.attrib[key].removesuffix("%"))


class Structure(HTMLParser):
    """Checks that tags are closed in order, and gathers text and attributes."""

    VOID = frozenset({"meta", "br", "img", "link"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data if self.open[-1:] != ["style"] else ""


def structure(page: str) -> Structure:
    found = Structure()
    found.feed(page)
    found.close()
    assert found.open == []
    return found


def whole_report(words: str = HOSTILE) -> str:
    plot = svg.memory_stacks([svg.Stack(words, ((words, 3.0),), 4.0)], plain)
    chart = svg.line_chart([svg.Series(words, ((0, 1), (1, 2)), labels=(words, words))] * 2, AXIS, AXIS)
    return html.report(
        words,
        [
            html.KeyFigures((html.Figure(words, html.Verdict(words, True), words),)),
            html.Table(words, (words, "b"), ((words, html.Verdict(words, False)),), left=("b",), note=words),
            html.Plot(words, plot + chart, words),
            html.Text(words, (words,)),
            html.Text(words, (words, "second line"), code=True),
        ],
        words,
    )


AXIS = scale.Axis(HOSTILE, plain)


def test_a_report_loads_nothing_and_runs_nothing() -> None:
    page = whole_report()
    found = structure(page)
    assert not {tag for tag, _ in found.seen} & {"script", "link", "img", "iframe", "object", "image", "use", "a"}
    keys = {key for _, attributes in found.seen for key in attributes}
    assert not {key for key in keys if key.startswith("on")} | keys & {"src", "href", "xlink:href"}
    assert not re.search(r"url\(|@import|https?:", page)
    policies = [attributes["content"] for tag, attributes in found.seen if attributes.get("http-equiv")]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'"]


def test_every_word_is_escaped_and_shown() -> None:
    page = whole_report()
    assert "<script" not in page
    assert structure(page).text.count(HOSTILE) >= 20
    assert structure(whole_report("plain")).text.count("plain") >= 20


def test_a_report_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "new" / "report.html"
    assert html.write_report(target, "title", [html.Text("", ("one",))]) == target
    before = target.read_text(encoding="utf-8")
    broken = html.Table("t", ("a", "b"), (("only one",),))
    with pytest.raises(BadInput, match="1 under 2 columns"):
        html.write_report(target, "title", [broken])
    assert target.read_text(encoding="utf-8") == before
    assert [path.name for path in target.parent.iterdir()] == ["report.html"]


def test_verdicts_are_told_in_words_too() -> None:
    table = html.Table("t", ("a", "b", "c"), (("x", html.Verdict("1 s", True), html.Verdict("2 s", False)),))
    labels = [
        attributes.get("aria-label") for tag, attributes in structure(html.report("t", [table])).seen if tag == "span"
    ]
    assert labels == [None, "held", None, "not held"]


def css_variables(block: str) -> dict[str, str]:
    return dict(re.findall(r"--([a-z0-9]+): (#[0-9a-f]{6})", block))


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2.2."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_contrast_is_enough_for_everyone(mode: str) -> None:
    style = (Path(html.__file__).with_name("report.css")).read_text(encoding="utf-8")
    light, dark = style.split("@media (prefers-color-scheme: dark)")
    colours = css_variables(light if mode == "light" else dark)

    def contrast(a: str, b: str) -> float:
        high, low = sorted((luminance(colours[a]), luminance(colours[b])), reverse=True)
        return (high + 0.05) / (low + 0.05)

    for text, ground in itertools.product(("ink", "soft", "good", "bad"), ("card", "page")):
        assert contrast(text, ground) >= 4.5, (text, ground)
    for drawn in ("accent", *(f"c{i + 1}" for i in range(svg.NUM_COLOURS))):
        assert contrast(drawn, "card") >= 3, drawn


def test_a_promise_is_drawn_where_its_numbers_are() -> None:
    plot = svg.promise_bars([svg.Promise("decode", plain, 40, 60, 50, 80, True), svg.Promise("later", plain, 1, 1)])
    top = 80 * 1.04
    (bar,), (band, degenerate) = elements(plot, "bar"), elements(plot, "band")
    assert percent(bar, "width") == pytest.approx(50 / top * 100, abs=0.01)
    assert percent(band, "x") == pytest.approx(40 / top * 100, abs=0.01)
    assert percent(band, "width") == pytest.approx(20 / top * 100, abs=0.01)
    assert percent(degenerate, "width") == 0
    assert len(elements(plot, "edge")) == 4
    said = tree(plot).attrib["aria-label"]
    assert said == "decode: promised 40 to 60, measured 50, limit 80, held; later: promised 1"
    assert "bad" not in plot
    missed = svg.promise_bars([svg.Promise("decode", plain, 40, 60, 30, holds=False)])
    assert [one.tag for one in elements(missed, "bad")] == ["text", "rect"]
    assert "✗" in missed


def test_parts_of_memory_lie_end_to_end() -> None:
    parts = (("libraries", 40.0), ("weights", 50.0), ("cache", 6.0))
    plot = svg.memory_stacks([svg.Stack("tight", parts, 100.0)], plain, ("cache",))
    rects = elements(plot, "part")
    end = 0.0
    for rect, (name, amount) in zip(rects, parts, strict=True):
        assert percent(rect, "x") == pytest.approx(end, abs=0.02)
        assert percent(rect, "width") == pytest.approx(amount / 104 * 100, abs=0.02)
        assert rect[0].text == f"{name}: {amount:g}"
        end += percent(rect, "width")
    (track,) = elements(plot, "track")
    assert percent(track, "width") == pytest.approx(100 / 104 * 100, abs=0.01)
    assert "--c1" in rects[2].attrib["style"]
    assert "--c2" in rects[0].attrib["style"]
    assert plot.index("cache <b>6</b>") < plot.index("libraries <b>40</b>")
    over = svg.memory_stacks([svg.Stack("over", parts, 90.0)], plain)
    assert elements(over, "bad")
    assert not elements(plot, "bad")


def test_points_of_a_chart_lie_in_order_inside_it() -> None:
    series = svg.Series("speed", tuple((x, x**2) for x in range(1, 9)))
    chart = svg.line_chart([series], scale.Axis("memory", plain, log=True), scale.Axis("speed", plain, zero=True))
    circles = [one for one in tree(chart).iter() if one.tag == "circle"]
    xs, ys = [percent(one, "cx") for one in circles], [float(one.attrib["cy"]) for one in circles]
    assert xs == sorted(xs)
    assert ys == sorted(ys, reverse=True)
    assert 0 <= xs[0] < xs[-1] <= 100
    assert 40 <= ys[-1] < ys[0] <= 212
    assert len([one for one in tree(chart).iter() if one.tag == "path"]) == 1
    assert "<ul" not in chart
    assert "<path" not in svg.line_chart([svg.Series("s", ((1, 1), (2, 2)), line=False)], AXIS, AXIS)


@pytest.mark.parametrize(
    "draw",
    [
        lambda: svg.promise_bars([]),
        lambda: svg.promise_bars([svg.Promise("a", plain, -1, 1)]),
        lambda: svg.memory_stacks([], plain),
        lambda: svg.memory_stacks([svg.Stack("a", (("b", -1.0),))], plain),
        lambda: svg.line_chart([], AXIS, AXIS),
        lambda: svg.line_chart([svg.Series("a", ((0, 1), (1, 1)), labels=("one",))], AXIS, AXIS),
        lambda: svg.line_chart([svg.Series("a", ((0, 1),))], scale.Axis("x", plain, log=True), AXIS),
        lambda: svg.line_chart([svg.Series("a", ((0, float("inf")),))], AXIS, AXIS),
        lambda: tables.memory_bar([("a", -1)], 5),
        lambda: tables.memory_bar([("a", 1)], 0),
        lambda: tables.promise_bar(2, 1, None),
    ],
)
def test_what_cannot_be_drawn_is_refused(draw: object) -> None:
    with pytest.raises(BadInput):
        draw()  # type: ignore[operator]


NUMBERS = st.floats(-1e12, 1e12, allow_nan=False).filter(lambda value: value == 0 or abs(value) > 1e-9)


@given(NUMBERS, NUMBERS, st.integers(2, 8))
def test_ticks_are_round_few_and_inside(a: float, b: float, num: int) -> None:
    low, high = sorted((a, b))
    if high - low <= 1e-6 * max(abs(low), abs(high)) or high == low:
        return
    ticks = scale.linear_ticks(low, high, num)
    slack = (high - low) * 1e-6
    assert 2 <= len(ticks) <= 2 * num + 2
    assert low - slack <= ticks[0] < ticks[-1] <= high + slack
    steps = [right - left for left, right in itertools.pairwise(ticks)]
    assert max(steps) - min(steps) <= 1e-6 * max(steps)


@given(st.floats(1e-9, 1e12), st.floats(1.01, 1e9), st.integers(3, 6))
def test_ticks_of_a_log_axis(low: float, factor: float, num: int) -> None:
    ticks = scale.Scale(low, low * factor, log=True).ticks(num)
    assert 2 <= len(ticks) <= 2 * num + 2
    assert low * 0.999 <= ticks[0] < ticks[-1] <= low * factor * 1.001


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=9), st.booleans())
def test_every_value_has_a_place_on_its_axis(values: list[float], zero: bool) -> None:
    placed = scale.Axis("a", plain, zero=zero).scale(values, 10.0, 90.0)
    for value in values:
        assert 9.99 <= placed(value) <= 90.01


HOLDERS = st.lists(st.tuples(st.text("abc ", max_size=50), st.integers(0, 10**12)), min_size=1, max_size=8)


@given(HOLDERS, st.integers(1, 10**12), st.integers(48, 140))
def test_terminal_bars_keep_the_width_and_tell_the_sum(holders: list[tuple[str, int]], budget: int, width: int) -> None:
    lines = tables.memory_bar(holders, budget, width).splitlines()
    assert len(lines) == len(holders) + 2
    assert max(map(len, lines)) <= width
    assert {len(line) for line in lines[:-1]} == {len(lines[0])}
    total = sum(amount for _, amount in holders)
    assert format_bytes(total) in lines[-2]
    assert ("free" in lines[-1]) == (total <= budget)


def test_terminal_bars_to_the_eye() -> None:
    holders = [("libraries", 40 * MB), ("weights", 75 * MB), ("cache", 6 * MB)]
    assert tables.memory_bar(holders, 160 * MB, 59).splitlines() == [
        "libraries  ████████                       │   40.0 MB   25%",
        "weights            ███████████████        │   75.0 MB   47%",
        "cache                             █▎      │   6.00 MB    4%",
        "in all     ████████████████████████▎      │    121 MB   76%",
        "                budget 160 MB, 39.0 MB free",
    ]


def test_a_promise_on_one_line() -> None:
    bar = tables.promise_bar(50, 75, 60, 24)
    assert (len(bar), bar.count("├"), bar.count("●"), bar.count("┤")) == (24, 1, 1, 1)
    assert bar.index("├") < bar.index("●") < bar.index("┤")
    assert tables.promise_bar(50, 75, 90).index("●") > tables.promise_bar(50, 75, 90).index("┤")
    assert "●" not in tables.promise_bar(50, 75, None)


def test_what_has_no_end_is_told_so() -> None:
    row = Row("degradation", "nats", 0.0, inf, 0.01, low=0.002, high=inf)
    assert between(row, 0.0, inf) == "0.0000 nats or more"
    assert between(row, 0.002, 0.01) == "0.0020 nats to 0.0100 nats"
    assert format_span(0.1, inf, "nats") == "0.1 nats or more"
