"""`lepton-edge compare`: is B faster or slower than A?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lepton_edge import errors
from lepton_edge.cli import _common as common
from lepton_edge.cli.benchmark import Window


def command(
    a: Annotated[Path, typer.Argument(help="What to compare with: an artefact.", metavar="A")],
    b: Annotated[Path, typer.Argument(help="What is judged: an artefact.", metavar="B")],
    pairs: Annotated[int, typer.Option(min=5, help="Pairs of fresh processes, interleaved.")] = 5,
    window: Window = "quick",
    data: common.Data = None,
    preprocess: common.PreprocessText = None,
    device: common.Device = "cpu",
    threads: common.Threads = 1,
    option: common.OptionTexts = None,
    b_option: Annotated[
        list[str] | None,
        typer.Option("--b-option", help="key=value for B's runtime, where it differs from A's."),
    ] = None,
    fail_if_slower: Annotated[
        bool, typer.Option("--fail-if-slower", help="Exit code 3 where B is slower.")
    ] = False,
    on: common.On = None,
    wait: common.Wait = False,
    time_limit: common.TimeLimit = 1800.0,
    memory_limit: common.MemoryLimit = None,
    json: common.Json = False,
    debug: common.Debug = False,
) -> int:
    """Run A and B in interleaved fresh processes and say faster, slower or tie.

    The verdict comes from the 95 % interval of the ratio of their median latencies.
    """
    from lepton_edge import latency

    options = common.pairs(option)
    result = latency.compare(
        a,
        b,
        pairs=pairs,
        window=window,
        data=common.samples(data, common.preprocess(preprocess)),
        device=device,
        threads=threads,
        a_options=options,
        b_options=options if b_option is None else common.pairs(b_option),
        on=common.address(on, wait),
        time_limit_s=time_limit,
        memory_limit_mb=memory_limit,
    )
    status, code = "PASS", 0
    if result.verdict == "NOT COMPARABLE":
        status, code = "UNSTABLE", errors.UnstableMeasurement.exit_code
    elif result.verdict == "slower":
        status, code = "SLOWER", errors.GateFailed.exit_code if fail_if_slower else 0
    document = {
        "status": status,
        "exit_code": code,
        "a": common.describe(a),
        "b": common.describe(b),
        **result.as_dict(),
    }
    return common.emit(document, json, lambda: _text(document))


def _text(document: dict[str, Any]) -> str:
    low, high = document["interval"]
    names = {
        "faster": "B is faster than A",
        "slower": "B is slower than A",
        "tie": "tie" if document["conclusive"] else "tie, but the interval is wide: more pairs",
        "NOT COMPARABLE": "not comparable",
    }
    lines = [
        f"{names[document['verdict']]}: p50(B) / p50(A) = {document['ratio']:.3f}"
        f" [{low:.3f}, {high:.3f}], {len(document['a_p50_ms'])} pairs of {document['window']},"
        f" differences within {100 * document['margin']:g} % count as none"
    ]
    lines += [f"  {reason}" for reason in (*document["reasons"], *document["unstable"])]
    for name in "ab":
        values = " ".join(f"{value:.3f}" for value in document[f"{name}_p50_ms"])
        spread = 100 * document[f"{name}_spread"]
        lines.append(f"{name.upper()} p50 ms: {values} (spread {spread:.1f} %)")
    return "\n".join(lines)
