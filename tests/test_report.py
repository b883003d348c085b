"""The page: offline, escaped, valid markup, the same bytes each time."""

import re
from html.parser import HTMLParser

import pytest

from pocketlm.report import (
    Line,
    Section,
    bar_plot,
    bullets,
    line_plot,
    page,
    paragraph,
    preformatted,
    stand_alone,
    table,
)

HOSTILE = '<script>alert("x")</script> & $y_1$ | \N{CJK UNIFIED IDEOGRAPH-6587}'
VOID = {"meta", "br", "hr", "img", "link", "input"}


class Balance(HTMLParser):
    """Open tags in order; `wrong` collects what closes something else."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def a_plot(label: str = "loss") -> str:
    lines = [Line(label, [0, 1, 2], [3.0, 2.0, 1.5]), Line("other", [0, 2], [1.0, 1.0])]
    return line_plot(lines, x_label=label, y_label="nats", description=label, marks={label: 1.0})


def assert_sound(html: str) -> None:
    balance = Balance(html)
    assert not balance.wrong
    assert not balance.open
    assert "script" not in balance.tags


@pytest.fixture(scope="module")
def whole_page() -> str:
    body = [
        paragraph(HOSTILE),
        table([HOSTILE, "n"], [[HOSTILE, "1"]]),
        bullets([HOSTILE]),
        preformatted(HOSTILE),
        a_plot(HOSTILE),
        bar_plot({HOSTILE: {HOSTILE: 3.0, "b": 1.0}}, x_label="n", description=HOSTILE),
    ]
    return page(HOSTILE, [Section(HOSTILE, body)])


def test_page_is_sound_and_escaped(whole_page: str) -> None:
    assert_sound(whole_page)
    assert "alert(&quot;x&quot;)" in whole_page


def test_page_forbids_and_makes_no_request(whole_page: str) -> None:
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in whole_page
    without_names = re.sub(r'xmlns(:\w+)?="[^"]*"', "", whole_page)
    assert not re.search(r"https?://|\burl\((?!#)|@import|\bsrc=", without_names)


def test_dollar_signs_are_not_formulas(whole_page: str) -> None:
    assert whole_page.count("$y_1$") >= 8  # in the texts and in the drawn labels


def test_plots_take_their_colours_from_the_page() -> None:
    plot = a_plot()
    assert "var(--s1)" in plot
    assert not re.search(r"#[0-9a-f]{6}", plot)


def test_plots_of_one_page_share_no_name_with_another_meaning() -> None:
    named: dict[str, str] = {}
    for plot in (
        a_plot(),
        a_plot("rate"),
        bar_plot({"a": {"b": 1.0}}, x_label="n", description=""),
    ):
        for name, rest in re.findall(r'id="([^"]*)"([^>]*>\s*<[^>]*>)', plot):
            assert named.setdefault(name, rest) == rest


def test_same_drawing_same_bytes() -> None:
    assert a_plot() == a_plot()


def test_drawing_leaves_matplotlib_as_it_was() -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    a_plot()
    assert dict(matplotlib.rcParams) == before


def test_stand_alone_plot_is_xml_with_colours() -> None:
    from xml.etree import ElementTree

    svg = stand_alone(a_plot())
    assert ElementTree.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"
    defined = set(re.findall(r"(--\w+):", svg))
    assert set(re.findall(r"var\((--\w+)\)", svg)) <= defined
