"""Every form of the report, on made-up rows of every status."""

from __future__ import annotations

import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from lepton_edge import errors, measurement, report
from lepton_edge.latency import BINS
from lepton_edge.measurement import Report
from lepton_edge.model import file_sha256
from lepton_edge.report import _cells, _details, _summary, html, markdown, text
from lepton_edge.report import json as json_form
from tests import made_up_report as made_up

ROOT = Path(__file__).parents[2]
NAN = float("nan")


@pytest.fixture(scope="module")
def page() -> str:
    pytest.importorskip("bokeh", reason="needs the extra: pip install 'lepton-edge[report]'")
    return html.render(made_up.report())


def hostile() -> Report:
    """A report whose every text tries to break out of its form."""
    rows = [
        dataclasses.replace(
            row,
            name=f"{made_up.HOSTILE} {i}",
            reason=made_up.HOSTILE,
            # No rate, so that the axis is named by the metric alone.
            accuracy=row.accuracy
            and dataclasses.replace(row.accuracy, metric="$$m^2$$", higher_is_better=False),
        )
        for i, row in enumerate(made_up.report().rows)
    ]
    # Short enough that a chart shows them whole: Bokeh would draw a formula in their place.
    classes = ("$$x^2$$", r"\[y\]", r"\(z\)", "$$x^2$$", *(made_up.HOSTILE,) * 6)
    return made_up.report(
        title=made_up.HOSTILE, rows=rows, classes=classes, notes=(made_up.HOSTILE,)
    )


class Tags(HTMLParser):
    """Every start tag with its attributes, and whether they are balanced."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "wbr"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


# ---- writing ---------------------------------------------------------------------------------


def test_write_names_the_files_and_leaves_nothing_else(tmp_path: Path) -> None:
    written = report.write(made_up.report(), tmp_path / "new", ("markdown", "json", "text"))
    assert {form: path.name for form, path in written.items()} == {
        "samples": "report.samples.npz",
        "markdown": "report.md",
        "json": "report.json",
        "text": "report.txt",
    }
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        "report.json",
        "report.md",
        "report.samples.npz",
        "report.txt",
    ]


def test_a_form_that_cannot_be_rendered_leaves_all_files_as_they_were(tmp_path: Path) -> None:
    (tmp_path / "report.md").write_text("before")
    broken = made_up.report(context={"cpu": {"model": object()}})
    with pytest.raises(errors.EdgeError, match=r"report\.context\.cpu\.model is of type object"):
        report.write(broken, tmp_path, ("markdown", "json"))
    assert [path.name for path in tmp_path.iterdir()] == ["report.md"]
    assert (tmp_path / "report.md").read_text() == "before"


def test_an_unknown_form_is_a_usage_error_with_the_nearest_spelling(tmp_path: Path) -> None:
    with pytest.raises(errors.UsageError, match="Did you mean 'html'"):
        report.write(made_up.report(), tmp_path, ("htlm",))


def test_a_file_where_the_folder_should_be_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.UsageError, match="Cannot write"):
        report.write(made_up.report(), tmp_path / "file", ("json",))


def test_a_name_that_is_no_text_is_written_escaped(tmp_path: Path) -> None:
    given = made_up.report(title="from a file name: \udcff")
    path = report.write(given, tmp_path, ("markdown", "text"))["text"]
    assert r"\udcff" in path.read_text()


def test_without_its_libraries_the_page_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "bokeh.embed", None)
    with pytest.raises(errors.BackendMissing, match=r"pip install 'lepton-edge\[report\]'"):
        html.render(made_up.report())


# ---- the cells that all forms share ----------------------------------------------------------


def cells_of(row: measurement.Row) -> dict[str, str]:
    return {column.title: _cells.plain(column.cell(row)) for column in _cells.COLUMNS}


def test_what_was_not_measured_is_a_dash() -> None:
    (row,) = [row for row in made_up.report().rows if row.status.startswith("SKIPPED")]
    cells = cells_of(row)
    measured = set(cells) - {"Target", "Format", "Precision", "Status", "Context"}
    assert {cells[title] for title in measured} == {"—"}


def test_an_estimate_says_so_in_every_cell_that_comes_from_it() -> None:
    (row,) = [row for row in made_up.report().rows if row.status == "ESTIMATED"]
    cells = cells_of(row)
    for title in ("p50 ms", "p90 ms", "p99 ms", "FPS", "Peak MB", "Load ms"):
        assert cells[title].endswith(" ESTIMATED"), title
    assert "ESTIMATED" not in cells["Metric"]
    assert any("tier: prior" in reason for reason in _cells.reasons(row))


@pytest.mark.parametrize(
    ("drop", "interval", "expected"),
    [
        (0.0012, (-0.0006, 0.0030), "+0.12 pt [-0.06, +0.30]"),
        (-0.0012, (-0.0030, 0.0006), "-0.12 pt [-0.30, +0.06]"),
        (0.0, (-0.00001, 0.00001), "0.00 pt [0.00, 0.00]"),
        (0.25, None, "+25.00 pt"),
        (NAN, None, "—"),
        (None, None, "—"),
    ],
)
def test_a_drop_is_signed_points_with_its_interval(
    drop: float | None, interval: tuple[float, float] | None, expected: str
) -> None:
    assert _cells.drop_text(made_up.accuracy(0, drop=drop, drop_interval=interval)) == expected


def test_an_error_metric_is_shown_in_its_own_unit() -> None:
    error = made_up.accuracy(
        0, metric="mae", value=0.412, interval=(0.4, 0.42), higher_is_better=False,
        drop=0.021, drop_interval=(0.01, 0.03),
    )  # fmt: skip
    row = made_up.row("regressor", "torch", "onnx", "fp32", accuracy=error)
    assert cells_of(row)["Metric"] == "mae 0.412"
    assert cells_of(row)["Drop"] == "+0.0210 [+0.0100, +0.0300]"


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.0, "0"), (0.0004123, "0.000412"), (0.0368, "0.0368"), (2e-6, "2e-06"),
     (0.39712, "0.397"), (0.99949, "0.999"),
     (0.9996, "1.00"), (9.994, "9.99"), (9.996, "10.0"), (99.96, "100"), (12345.6, "12,346"),
     (-1.5, "-1.50"), (NAN, "—"), (float("inf"), "—"), (None, "—")],
)  # fmt: skip
def test_numbers_have_three_significant_digits(value: float | None, expected: str) -> None:
    assert _cells.number(value) == expected


def test_fps_counts_the_batch() -> None:
    assert _cells.fps(made_up.latency(0, 2.0, p50_ms=2.0, batch=8)) == 4000.0


def test_a_reason_is_told_once() -> None:
    (row,) = [row for row in made_up.report().rows if row.status == "UNSTABLE"]
    again = dataclasses.replace(row, reason="; ".join(row.latency.unstable) if row.latency else "")
    assert _cells.reasons(again) == [again.reason]


# ---- the summary -----------------------------------------------------------------------------


def test_the_best_is_the_fastest_pass_and_nothing_else() -> None:
    rows = made_up.report().rows
    best = _summary.best(rows)
    assert best is not None
    # tflite int8 is faster but UNDECIDED, and the torch and keras rows are baselines.
    assert best.name == "keras tflite int8"
    sentence = _summary.best_sentence(rows)
    assert "keras tflite int8: 0.310 ms" in sentence
    assert "92.28 % on 10,000 samples (drop -0.05 pt [-0.23, +0.13]; + is worse)" in sentence
    assert "times as fast as keras fp32" in sentence
    assert "overlaps" not in sentence


def test_a_rival_within_the_interval_is_named() -> None:
    first = made_up.row("one", "torch", "onnx", "int8", latency=made_up.latency(0, 1.0))
    near = made_up.row("other", "torch", "tflite", "int8", latency=made_up.latency(0, 1.0001))
    assert _summary.best_sentence([first, near]).endswith("its interval overlaps that of other.")


def test_without_a_pass_the_sentence_says_so() -> None:
    rows = [row for row in made_up.report().rows if row.is_baseline or row.status != "PASS"]
    assert _summary.best(rows) is None
    assert _summary.best_sentence(rows).startswith("No artefact")


def test_an_estimate_or_an_unstable_run_is_never_the_best() -> None:
    guess = made_up.row("a", "torch", "onnx", "int8", latency=made_up.latency(0, 0.1, tier="prior"))
    loose = made_up.row(
        "b", "torch", "onnx", "int8", latency=made_up.latency(0, 0.1, unstable=("drift",))
    )
    assert _summary.best([guess, loose]) is None
    assert _summary.pareto([guess, loose]) == []


def test_no_speed_up_is_claimed_where_intervals_overlap() -> None:
    base = made_up.row(
        "source", "torch", "torch", "fp32", is_baseline=True, latency=made_up.latency(0, 1.0)
    )
    same = made_up.row("copy", "torch", "onnx", "fp32", latency=made_up.latency(1, 0.9999))
    assert "times as fast" not in _summary.best_sentence([base, same])


def test_verdicts_count_every_artefact_once_and_no_baseline() -> None:
    rows = made_up.report().rows
    counts = dict(_summary.verdicts(rows))
    assert counts["PASS"] == 6
    assert sum(counts.values()) == sum(not row.is_baseline for row in rows)


def test_the_pareto_line_holds_what_nothing_usable_beats() -> None:
    rows = made_up.report().rows
    line = _summary.pareto(rows)
    assert [row.name for row in line] == [
        "keras tflite int8",
        "onnx int8",
        "openvino int8",
        "onnx fp32",
    ]


def test_the_pareto_line_of_an_error_metric_goes_down() -> None:
    def row(name: str, p50: float, error: float) -> measurement.Row:
        found = made_up.accuracy(
            0, metric="mae", value=error, interval=(error, error), higher_is_better=False
        )
        given = made_up.latency(0, p50)
        return made_up.row(name, "torch", "onnx", "fp32", accuracy=found, latency=given)

    rows = [row("fast", 1.0, 0.5), row("beaten", 2.0, 0.6), row("precise", 3.0, 0.4)]
    assert [found.name for found in _summary.pareto(rows)] == ["fast", "precise"]


@pytest.mark.parametrize(
    ("ends", "texts"),
    [
        ((0.1061, 0.1064), ("0.1061", "0.1064")),
        ((0.03681, 0.036812), ("0.036810", "0.036812")),
        ((0.106, 0.106), ("0.106", "0.106")),
        ((0.106, 0.112), ("0.106", "0.112")),
        ((1204.2, 1204.4), ("1,204.2", "1,204.4")),
        ((1e-9, 1.0000001e-9), ("1e-09", "1e-09")),
        ((NAN, 1.0), ("—", "1.00")),
        ((NAN, NAN), ("—", "—")),
    ],
)
def test_the_ends_of_an_interval_are_told_apart(
    ends: tuple[float, float], texts: tuple[str, str]
) -> None:
    assert _cells.both(*ends) == texts


# ---- JSON ------------------------------------------------------------------------------------


def strictly(text: str) -> Any:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} in JSON")

    return json.loads(text, parse_constant=refuse)


def test_json_reads_back_to_the_same_report() -> None:
    given = made_up.report()
    rendered = json_form.render(given)
    again = Report.from_dict(strictly(rendered))
    assert json_form.render(again) == rendered
    latency = given.rows[3].latency
    assert latency is not None
    without_runs = dataclasses.replace(latency, samples_ms=())
    assert again.rows[3] == dataclasses.replace(given.rows[3], latency=without_runs)
    assert isinstance(again.rows[3].accuracy, measurement.Accuracy)


def test_json_turns_what_is_not_finite_into_null() -> None:
    document = strictly(json_form.render(made_up.report()))
    (failed,) = [row for row in document["rows"] if row["status"] == "FAIL(parity)"]
    assert failed["parity"]["outputs"][0]["max_abs"] is None
    assert failed["parity"]["outputs"][0]["relative"] is None


def test_the_timed_runs_are_kept_beside_the_document(tmp_path: Path) -> None:
    given = made_up.report()
    written = report.write(given, tmp_path, ["json", "markdown"])
    assert written["samples"] == tmp_path / "report.samples.npz"
    document = strictly(written["json"].read_text())
    assert document["samples"]["file"] == "report.samples.npz"
    assert document["samples"]["sha256"] == file_sha256(written["samples"])
    assert "samples_ms" not in document["rows"][0]["latency"]
    again = report.read(written["json"])
    for before, after in zip(given.rows, again.rows, strict=True):
        if before.latency is not None and after.latency is not None:
            assert after.latency.samples_ms == pytest.approx(before.latency.samples_ms, abs=1e-6)
    report.write(again, tmp_path / "again", ["json", "markdown"])
    for name in ("report.md", "report.json", "report.samples.npz"):  # byte by byte
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / name).read_bytes()


def test_many_runs_make_no_large_document(tmp_path: Path) -> None:
    rows = [
        made_up.row("a", "torch", "onnx", "fp32", latency=made_up.latency(1, 0.1, n=100_000)),
        made_up.row("b", "torch", "onnx", "int8", latency=made_up.latency(2, 0.1, n=100_000)),
    ]
    written = report.write(made_up.report(rows=rows), tmp_path, ["json"])
    assert written["json"].stat().st_size < 20_000
    assert written["samples"].stat().st_size < 3 * 200_000


def test_a_document_without_its_runs_says_so_and_draws_the_same(tmp_path: Path) -> None:
    written = report.write(made_up.report(), tmp_path, ["json"])
    whole = report.read(written["json"])
    written["samples"].unlink()
    alone = report.read(written["json"])
    assert "report.samples.npz" in alone.notes[-1]
    for before, after in zip(whole.rows, alone.rows, strict=True):
        limits = _details.Limits()
        assert _details.drawing(before, whole, limits) == _details.drawing(after, alone, limits)
    again = report.write(alone, tmp_path / "again", ["json"])
    assert "samples" not in again
    assert strictly(again["json"].read_text())["samples"] is None


def test_runs_of_another_report_and_another_schema_are_refused(tmp_path: Path) -> None:
    written = report.write(made_up.report(), tmp_path, ["json"])
    written["samples"].write_bytes(b"PK" + bytes(100))
    with pytest.raises(errors.BadInput, match="not the file that the report lists"):
        report.read(written["json"])
    document = {**strictly(written["json"].read_text()), "schema": 1}
    written["json"].write_text(json.dumps(document))
    with pytest.raises(errors.BadInput, match="schema 1"):
        report.read(written["json"])
    with pytest.raises(errors.BadInput, match="Cannot read"):
        report.read(tmp_path / "absent.json")


def test_every_status_word_is_in_the_design() -> None:
    design = (ROOT / "docs" / "design.md").read_text()
    (line,) = re.findall(r"^- Status words: (.*)$", design, re.M)
    words = set(re.findall(r"`(.+?)`", line))
    classes = [errors.EdgeError, *errors.EdgeError.__subclasses__()]
    assert {each.status for each in classes} <= words
    assert set(_summary.GLOSSARY) <= words


SCHEMA = json.loads((ROOT / "docs" / "report.schema.json").read_text())
OBJECTS = {
    "report": measurement.Report,
    "row": measurement.Row,
    "parity": measurement.Parity,
    "output": measurement.Output,
    "accuracy": measurement.Accuracy,
    "class_result": measurement.ClassResult,
    "roc": measurement.Roc,
    "latency": measurement.Latency,
    "histogram": measurement.Histogram,
}
_TYPES = {
    "object": dict, "array": list, "string": str, "number": (int, float), "integer": int,
    "boolean": bool, "null": type(None),
}  # fmt: skip


def problems(value: Any, schema: dict[str, Any], where: str = "report") -> list[str]:
    """What breaks the schema: the part of JSON Schema that ours uses, checked by hand."""
    known = {"$schema", "$defs", "title", "description", "$ref", "anyOf", "type", "const", "enum"}
    known |= {"pattern", "properties", "required", "additionalProperties", "items"}
    assert set(schema) <= known | {"minItems", "maxItems"}, set(schema) - known
    if "$ref" in schema:
        return problems(value, SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]], where)
    if "anyOf" in schema:
        tries = [problems(value, each, where) for each in schema["anyOf"]]
        return [] if [] in tries else tries[0]
    if "const" in schema or "enum" in schema:
        return [] if value in schema.get("enum", [schema.get("const")]) else [f"{where}: {value}"]
    types = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
    fits = [isinstance(value, _TYPES[name]) for name in types]
    if not any(fits) or (isinstance(value, bool) and "boolean" not in types):
        return [f"{where}: {value!r} is no {types}"]
    found = []
    if isinstance(value, str) and not re.search(schema.get("pattern", ""), value):
        found.append(f"{where}: {value!r} is not {schema['pattern']}")
    if isinstance(value, dict):
        found += [
            f"{where}.{key} is missing" for key in set(schema.get("required", ())) - set(value)
        ]
        properties = schema.get("properties", {})
        if schema.get("additionalProperties") is False:
            found += [f"{where}.{key} is unknown" for key in set(value) - set(properties)]
        for key in set(value) & set(properties):
            found += problems(value[key], properties[key], f"{where}.{key}")
    if isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            found.append(f"{where}: {len(value)} items")
        for index, item in enumerate(value):
            found += problems(item, schema["items"], f"{where}[{index}]")
    return found


def test_the_document_keeps_its_schema() -> None:
    document = strictly(json_form.render(made_up.report()))
    assert problems(document, SCHEMA) == []


def test_the_check_of_the_schema_can_fail() -> None:
    document = strictly(json_form.render(made_up.report()))
    document["rows"][0]["status"] = "OK"
    document["rows"][1]["latency"]["p50_ms"] = "1"
    document["rows"][2]["extra"] = 1
    del document["rows"][3]["name"]
    document["schema"] = 1
    assert len(problems(document, SCHEMA)) == 5


@pytest.mark.parametrize("name", OBJECTS)
def test_schema_and_page_document_exactly_the_fields(name: str) -> None:
    fields = {field.name for field in dataclasses.fields(OBJECTS[name])} - {"samples_ms"}
    schema = SCHEMA if name == "report" else SCHEMA["$defs"][name]
    assert set(schema["properties"]) == set(schema["required"]) == fields
    documented = (ROOT / "docs" / "report-schema.md").read_text()
    section = documented.split(f"\n## {name}\n")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", section, re.M)) == fields


# ---- Markdown --------------------------------------------------------------------------------


def table_of(rendered: str) -> list[list[str]]:
    lines = [line for line in rendered.splitlines() if line.startswith("|")]
    return [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines
    ]  # fmt: skip


@pytest.mark.parametrize("given", [made_up.report(), hostile()], ids=["plain", "hostile"])
def test_the_markdown_table_is_well_formed(given: Report) -> None:
    rows = table_of(markdown.render(given))
    assert len(rows) == len(given.rows) + 2
    assert {len(row) for row in rows} == {len(_cells.COLUMNS)}
    assert set(rows[1]) == {":---", "---:"}


def test_markdown_shows_hostile_text_as_text() -> None:
    rendered = markdown.render(hostile())
    assert "<script" not in rendered
    assert re.search(r"(?<!\\)!\[", rendered) is None
    assert re.search(r"(?<!\\)\]\(", rendered) is None


def test_a_command_cannot_end_its_fence() -> None:
    rendered = markdown.render(made_up.report(command="echo '```' # not the end"))
    assert "\n````sh\necho '```' # not the end\n````\n" in rendered


# ---- the terminal ----------------------------------------------------------------------------


def test_text_columns_line_up_and_nothing_is_coloured() -> None:
    rendered = text.render(made_up.report())
    lines = rendered.splitlines()
    top = next(i for i, line in enumerate(lines) if line.startswith("Target"))
    rule = lines[top + 1]
    for line in lines[top + 2 : top + 2 + 15]:
        for gap in re.finditer("  ", rule):
            assert line[gap.start() : gap.end()].strip() == "", line
    assert "\033" not in rendered
    for title in ("Size MB", "Metric", "Drop", "n", "p50 ms", "FPS", "Peak MB", "Load ms"):
        assert f" {title}" in lines[top]
    assert "tflite fp16: FAIL(parity). Output 'logits' is NaN for 3 of 64 inputs." in rendered


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_narrow_terminal_gets_the_table_in_blocks(width: int) -> None:
    rendered = text.render(made_up.report(), width=width)
    table = rendered.split("Verdicts:")[0].splitlines()[3:]
    assert max(map(len, table)) <= width
    # Every block repeats the target and has every row.
    heads = [line for line in table if line.startswith("Target")]
    assert len(heads) > 1
    assert sum(line.startswith("onnx int8 ") for line in table) == len(heads)
    assert sorted(set(" ".join(heads).split())) == sorted(
        set(" ".join(column.title for column in _cells.COLUMNS[:-2]).split())
    )


def test_wide_characters_count_twice() -> None:
    assert text.columns_of("模型 a\u0301") == 6


def test_colour_is_for_a_terminal_only(capsys: pytest.CaptureFixture[str]) -> None:
    text.show(made_up.report(), __import__("sys").stdout)
    assert "\033" not in capsys.readouterr().out
    coloured = text.render(made_up.report(), colour=True)
    assert "\033[31mFAIL(parity)" in coloured
    assert re.sub(r"\033\[\d+m", "", coloured) == text.render(made_up.report())


def test_a_name_cannot_drive_the_terminal() -> None:
    given = made_up.report(title="\033[2J\x07 title\nnext")
    assert text.render(given).startswith(r"\x1b[2J\x07 title\nnext" + "\n")


# ---- the page --------------------------------------------------------------------------------


def test_the_page_is_balanced_and_small(page: str) -> None:
    assert Tags(page).open == []
    assert len(page.encode()) < html.MOST_BYTES


def test_nothing_in_the_page_is_fetched_from_elsewhere(page: str) -> None:
    fetching = ("src", "href", "data", "action", "poster", "srcset", "background", "xlink:href")
    for tag, attributes in Tags(page).tags:
        assert tag not in ("link", "iframe", "object", "embed", "img", "base", "form"), tag
        for name in fetching:
            assert (attributes.get(name) or "#").startswith("#"), (tag, attributes)
    style = re.findall(r"<style>(.*?)</style>", page, re.S)
    assert len(style) == 1
    assert "url(" not in style[0]
    assert "@import" not in style[0]
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy
    assert "http" not in policy


def test_the_page_shows_hostile_text_as_text() -> None:
    pytest.importorskip("bokeh", reason="needs the extra: pip install 'lepton-edge[report]'")
    page = html.render(hostile())
    tags = Tags(page)
    assert tags.open == []
    assert sum(tag == "script" for tag, _ in tags.tags) == 3  # data, Bokeh, ours
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_the_page_says_every_status_and_reason_as_text(page: str) -> None:
    shown = re.sub(r"<wbr>", "", page)
    for row in made_up.report().rows:
        assert f">{row.status}</span>" in shown
    assert "Output &#39;logits&#39; is NaN for 3 of 64 inputs." in shown
    assert shown.count('<small class="tag">ESTIMATED</small>') == 6


def test_many_rows_with_many_classes_stay_under_the_limit() -> None:
    pytest.importorskip("bokeh", reason="needs the extra: pip install 'lepton-edge[report]'")
    names = tuple(f"class {i}" for i in range(200))
    found = made_up.accuracy(
        0,
        per_class=tuple(measurement.ClassResult(name, 10, 0.9, 0.1, (-1, 1)) for name in names),
        confusion=tuple(tuple(int(i == j) for j in range(200)) for i in range(200)),
        roc=tuple(
            measurement.Roc(name, 0.99, *((tuple(k / 199 + 1e-9 for k in range(200)),) * 2))
            for name in names
        ),
    )
    rows = [
        made_up.row(f"row {i}", "torch", "onnx", "int8", accuracy=found,
                    latency=made_up.latency(i, 1.0))
        for i in range(60)
    ]  # fmt: skip
    page = html.render(made_up.report(rows=rows, classes=names))
    assert len(page.encode()) < html.MOST_BYTES
    assert "of 200; all are in the JSON form" in page
    assert "of 200 classes with the most errors" in page


def test_a_report_without_rows_is_still_a_page() -> None:
    pytest.importorskip("bokeh", reason="needs the extra: pip install 'lepton-edge[report]'")
    empty = made_up.report(rows=(), classes=(), notes=())
    page = html.render(empty)
    assert "No row has both an accuracy and a latency." in page
    assert "No artefact with a measured latency has the status PASS." in page
    assert markdown.render(empty)
    assert text.render(empty)
    assert problems(strictly(json_form.render(empty)), SCHEMA) == []


# ---- what the charts draw --------------------------------------------------------------------


def test_the_histogram_counts_every_run_or_says_which_are_not_drawn() -> None:
    found = made_up.latency(3, 1.0)
    drawing = _details.drawing(
        made_up.row("a", "torch", "onnx", "fp32", latency=found),
        made_up.report(),
        _details.Limits(),
    )
    bins = drawing["histogram"]
    above = sum(sample > bins["edges"][-1] for sample in found.samples_ms)
    assert sum(bins["counts"]) + above == pytest.approx(2000, abs=1)
    assert len(bins["edges"]) == len(bins["counts"]) + 1 == BINS + 1
    assert "2,000 runs. " in bins["note"]
    assert "are not drawn" in bins["note"]


def test_the_latency_axis_of_one_row_is_wider_than_its_interval() -> None:
    pytest.importorskip("bokeh", reason="needs the extra: pip install 'lepton-edge[report]'")
    from lepton_edge.report import _plots

    found = made_up.latency(0, 1.0, p50_ms=1.0, p50_interval_ms=(0.999, NAN))
    row = made_up.row("a", "torch", "onnx", "fp32", latency=found, accuracy=made_up.accuracy(0))
    axis = _plots.scatter([row]).x_range
    assert axis.start < 0.91
    assert axis.end > 1.09


def test_equal_samples_make_a_histogram_too() -> None:
    row = made_up.row(
        "a", "torch", "onnx", "fp32", latency=made_up.latency(0, 1.0, n=9, samples_ms=(2.0,) * 9)
    )
    bins = _details.drawing(row, made_up.report(), _details.Limits())["histogram"]
    assert sum(bins["counts"]) == 9


def test_a_long_tail_does_not_squeeze_the_histogram() -> None:
    samples = tuple(1 + 0.0001 * i for i in range(970)) + (50.0,) * 30
    found = made_up.latency(
        0, 1.0, n=1000, samples_ms=samples, p50_ms=1.05, p90_ms=1.09, p99_ms=50.0, max_ms=50.0
    )
    row = made_up.row("a", "torch", "onnx", "fp32", latency=found)
    bins = _details.drawing(row, made_up.report(), _details.Limits())["histogram"]
    assert bins["edges"][-1] < 2
    assert sum(count > 0 for count in bins["counts"]) > 5
    assert bins["note"].startswith("1,000 runs. 30 above ")
    assert bins["note"].endswith("ms are not drawn (p99 50.0, slowest 50.0 ms).")
    assert [mark["label"] for mark in bins["marks"]] == ["p50", "p90"]


def test_the_confusion_matrix_names_classes_by_index_not_by_their_rank() -> None:
    row = made_up.report().rows[3]
    assert row.accuracy is not None
    ranked = dataclasses.replace(row.accuracy, per_class=tuple(_details.worst_first(row.accuracy)))
    row = dataclasses.replace(row, accuracy=ranked)
    named = _details.drawing(row, made_up.report(), _details.Limits())["confusion"]
    assert named["names"] == list(made_up.CLASSES)
    nameless = _details.drawing(row, made_up.report(classes=()), _details.Limits())["confusion"]
    assert nameless["names"] == [str(index) for index in range(10)]


def test_labels_are_unique_and_never_a_formula() -> None:
    names = _details.labels(
        ["a" * 40, "a" * 40, r"$$x$$ \[y\] \(z\)", "tab\there", "b", "b", "b (2)"]
    )
    assert len(set(names)) == 7
    assert not any(mark in name for name in names for mark in ("$$", r"\[", r"\(", "\t"))


def test_classes_are_listed_worst_first() -> None:
    drops = [item.drop for item in _details.worst_first(made_up.accuracy(5))]
    assert drops == sorted(drops, key=lambda drop: -(drop or 0.0))
    values = [item.value for item in _details.worst_first(made_up.accuracy(5, drop=None))]
    assert values == sorted(values)


def test_the_layers_of_a_mixed_artefact_are_drawn_worst_first() -> None:
    pytest.importorskip("bokeh", reason="needs the extra: pip install 'lepton-edge[report]'")
    shares = {"stem": 0.75, "head": 0.25}
    layers = [
        {
            "node": name,
            "op": "Conv",
            "sqnr_db": 20.0,
            "kl": None,
            "share": share,
            "float_us": 12.0,
            "int8_us": None,
            "kept_in_float": name == "stem",
        }
        for name, share in shares.items()
    ]
    row = made_up.report().rows[0]
    drawn = dataclasses.replace(row, facts={**row.facts, "sensitivity": layers})
    page = html.render(made_up.report(rows=[drawn]))
    assert "1 of 2 stay in float" in page
    assert page.index('<th scope="row">stem</th><td>float</td>') < page.index(
        '<th scope="row">head</th><td>int8</td>'
    )
    assert "75.0 %" in page
    assert "width:33.3%" in page
    assert "kept_in_float" not in page  # it is no fact in one line
