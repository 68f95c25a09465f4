"""The HTML report in a real browser: it draws, sorts, tells on hover, and asks for nothing."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("bokeh", reason="needs the extra: pip install 'lepton-edge[report]'")
pytest.importorskip("websocket", reason="needs the dev extra: pip install 'lepton-edge[dev]'")

from lepton_edge import report
from tests import made_up_report as made_up
from tests.e2e.devtools import Browser

CHROMIUM = shutil.which("chromium")
if CHROMIUM is None:
    pytest.skip("needs chromium: apt-get install chromium", allow_module_level=True)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    assert CHROMIUM is not None
    with Browser(CHROMIUM, tmp_path_factory.mktemp("chromium") / "profile") as browser:
        yield browser


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report.write(made_up.report(), tmp_path_factory.mktemp("report"), ("html",))["html"]


@pytest.fixture
def page(browser: Browser, path: Path) -> Iterator[Browser]:
    """The report, freshly opened; afterwards nothing was asked for and nothing went wrong."""
    browser.requests.clear()
    browser.errors.clear()
    browser.open(path)
    yield browser
    nothing_wrong(browser)


def nothing_wrong(browser: Browser) -> None:
    browser.evaluate("new Promise(done => setTimeout(done, 100))")
    assert browser.requests, "not even the page itself was recorded"
    assert [
        url for url in browser.requests if not url.startswith(("file:", "data:", "blob:"))
    ] == []
    assert browser.errors == []


def column(page: Browser, title: str) -> int:
    index: int = page.evaluate(
        f"[...document.querySelectorAll('#results thead th')]"
        f".findIndex(th => th.textContent.trim() === {json.dumps(title)})"
    )
    assert index >= 0
    return index


def click_header(page: Browser, title: str) -> None:
    """A real click of the mouse in the middle of the header's button."""
    button = f"document.querySelectorAll('#results thead button')[{column(page, title)}]"
    page.evaluate(f"{button}.scrollIntoView({{block: 'center', inline: 'center'}})")
    box = page.evaluate(f"{button}.getBoundingClientRect().toJSON()")
    page.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)


def values(page: Browser, title: str) -> list[str | None]:
    """The column's sort keys from top to bottom; None where nothing was measured."""
    found: list[str | None] = page.evaluate(
        f"[...document.querySelectorAll('#results tbody tr')]"
        f".map(row => row.cells[{column(page, title)}].dataset.sort ?? null)"
    )
    return found


def header_says(page: Browser, title: str) -> str:
    found: str = page.evaluate(
        f"document.querySelectorAll('#results thead th')[{column(page, title)}].ariaSort"
    )
    return found


@pytest.mark.parametrize("title", ["p50 ms", "Drop", "Target"])
def test_a_header_sorts_both_ways_with_the_unmeasured_last(page: Browser, title: str) -> None:
    def key(value: str) -> Any:
        return value if title == "Target" else float(value)

    before = values(page, title)
    expected = sorted((value for value in before if value is not None), key=key)
    assert header_says(page, title) == "none"
    click_header(page, title)
    up = values(page, title)
    assert up != before
    assert [key(value) for value in up if value is not None] == list(map(key, expected))
    assert header_says(page, title) == "ascending"
    click_header(page, title)
    down = values(page, title)
    assert [key(v) for v in down if v is not None] == list(map(key, reversed(expected)))
    assert header_says(page, title) == "descending"
    missing = before.count(None)
    for order in (up, down):
        assert order[len(order) - missing :] == [None] * missing


def test_the_keyboard_sorts_too_and_only_one_header_claims_the_order(page: Browser) -> None:
    for title in ("Size MB", "FPS"):
        page.evaluate(
            f"document.querySelectorAll('#results thead button')[{column(page, title)}].focus()"
        )
        page.press_enter()
    order = [float(value) for value in values(page, "FPS") if value is not None]
    assert order == sorted(order)
    assert header_says(page, "Size MB") == "none"
    assert page.evaluate("document.getElementById('sorted').textContent") == (
        "Sorted by FPS, ascending."
    )


SHADOWED = """(() => {
  const found = [];
  const walk = (node) => {
    for (const child of node.children) {
      if (child.classList.contains('bk-Tooltip')) found.push(child);
      if (child.shadowRoot) walk(child.shadowRoot);
      walk(child);
    }
  };
  walk(document.body);
  const text = (node) => [...node.childNodes].map((child) =>
    child.nodeType === 3 ? child.data : child.nodeName === 'STYLE' ? ''
      : text(child.shadowRoot ?? child) + (child.shadowRoot ? text(child) : '')).join(' ');
  return found.filter((tip) => tip.getBoundingClientRect().width > 0)
    .map((tip) => text(tip.shadowRoot ?? tip)).join(' ').replace(/\\s+/g, ' ');
})()"""


def pixel(page: Browser, plot: str, x: float | str, y: float | str) -> tuple[float, float]:
    """Where a data point of a plot is on the screen."""
    page.evaluate(f"document.getElementById('plot-{plot}').scrollIntoView({{block: 'center'}})")
    page.evaluate("new Promise(done => setTimeout(done, 200))")
    found = page.evaluate(
        f"""(() => {{
          const view = Bokeh.index.roots.find((view) => view.model.name === {plot!r});
          const box = view.el.getBoundingClientRect();
          return [box.x + view.frame.x_scale.compute({json.dumps(x)}),
                  box.y + view.frame.y_scale.compute({json.dumps(y)})];
        }})()"""
    )
    assert all(math.isfinite(value) for value in found)
    return found[0], found[1]


def hover(page: Browser, plot: str, x: float | str, y: float | str) -> str:
    """The tooltip's text with the mouse over a data point."""
    across, down = pixel(page, plot, x, y)
    page.move(across - 80, down - 60)
    page.move(across, down)
    page.wait(f"{SHADOWED} !== ''")
    found: str = page.evaluate(SHADOWED)
    return found


def test_hovering_a_point_tells_what_it_is(page: Browser) -> None:
    (row,) = [row for row in made_up.report().rows if row.name == "onnx fp16"]
    assert row.latency is not None
    assert row.accuracy is not None
    assert page.evaluate(SHADOWED) == ""
    tip = hover(page, "scatter", row.latency.p50_ms, 100 * row.accuracy.value)
    assert "onnx fp16" in tip
    assert "SLOWER" in tip
    assert "92.44 % [91.90, 92.96], n = 10,000" in tip
    assert "+0.01 pt [-0.17, +0.19]" in tip
    page.move(2, 2)
    page.wait(f"{SHADOWED} === ''")


def test_every_row_can_be_looked_at_in_detail(page: Browser) -> None:
    rows = made_up.report().rows
    for index, row in enumerate(rows):
        page.evaluate(
            f"""(() => {{ const pick = document.getElementById('pick'); pick.value = '{index}';
              pick.dispatchEvent(new Event('change')); }})()"""
        )
        shown = page.evaluate(
            "[...document.querySelectorAll('article.row:not([hidden])')].map(each => each.id)"
        )
        assert shown == [f"row-{index}"]
        drawn = page.evaluate(
            "['histogram', 'confusion', 'roc']"
            ".map(name => !document.getElementById('chart-' + name).hidden)"
        )
        has_samples = row.latency is not None and bool(row.latency.samples_ms)
        assert drawn == [has_samples, row.accuracy is not None, row.accuracy is not None]


def test_a_targets_name_leads_to_its_details_and_its_charts_tell_on_hover(page: Browser) -> None:
    rows = made_up.report().rows
    index = next(i for i, row in enumerate(rows) if row.name == "openvino int8")
    link = f"document.querySelector('#results a[href=\"#row-{index}\"]')"
    page.evaluate(f"{link}.scrollIntoView({{block: 'center'}})")
    box = page.evaluate(f"{link}.getBoundingClientRect().toJSON()")
    page.click(box["x"] + 10, box["y"] + 6)
    page.wait(f"document.getElementById('pick').value === '{index}'")
    accuracy = rows[index].accuracy
    assert accuracy is not None
    tip = hover(page, "heatmap", "Coat", "Dress")
    assert "true: Dress" in tip
    assert "predicted: Coat" in tip
    assert f"samples: {accuracy.confusion[3][4]} " in tip


def test_a_class_can_be_picked_out_of_the_roc_curves(page: Browser) -> None:
    page.evaluate(
        """(() => { const pick = document.getElementById('curve'); pick.value = 'class Coat';
          pick.dispatchEvent(new Event('change')); })()"""
    )
    strong = page.evaluate(
        """(() => {
          const view = Bokeh.index.roots.find((view) => view.model.name === 'roc');
          const { name, alpha } = view.model.document.get_model_by_name('curves').data;
          return [...name].filter((_, index) => alpha[index] === 1);
        })()"""
    )
    assert strong == ["Coat"]


def test_on_a_phone_only_the_tables_scroll_sideways(browser: Browser, path: Path) -> None:
    browser.errors.clear()
    browser.open(path, width=390, height=844)
    assert browser.evaluate("document.documentElement.scrollWidth") == 390
    nothing_wrong(browser)


def test_in_the_dark_text_and_axes_are_light(browser: Browser, path: Path) -> None:
    browser.errors.clear()
    browser.open(path, dark=True)
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 24, 29)"
    colours = browser.evaluate(
        "Bokeh.index.roots.flatMap(view => view.model.below ?? [])"
        ".map(axis => axis.axis_label_text_color)"
    )
    assert len(colours) == 4
    assert set(colours) == {"#9aa5b3"}
    nothing_wrong(browser)


def test_hostile_names_run_nothing_and_fetch_nothing(browser: Browser, tmp_path: Path) -> None:
    from tests.unit.test_report import hostile

    path = report.write(hostile(), tmp_path, ("html",))["html"]
    browser.requests.clear()
    browser.errors.clear()
    browser.open(path)
    assert made_up.HOSTILE in browser.evaluate("document.querySelector('h1').textContent")
    nothing_wrong(browser)


def test_the_page_forbids_itself_any_request_and_any_other_script(
    browser: Browser, path: Path
) -> None:
    """What the other tests rely on: a request or a foreign script would be seen, and is stopped."""
    browser.open(path)
    browser.errors.clear()
    browser.evaluate(
        """(() => {
          const script = document.createElement('script');
          script.textContent = 'window.foreign = true';
          document.body.append(script);
          return fetch('http://127.0.0.1:9/').catch(() => null);
        })()"""
    )
    assert browser.evaluate("window.foreign === undefined")
    assert sum("Content Security Policy" in error for error in browser.errors) >= 2
