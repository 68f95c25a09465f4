"""The A/A check: does `compare` find no difference where there is none, and 10 % where it is?

    python benchmarks/aa.py [--runs 20] [--pairs 5] [--window 50,0.3] [--warmup 0.2] [--spin]

Each run compares an artefact with itself, then with a copy that does 10 % more of the same work:
the null runtime multiplies matrices, 110 for 100, so that both feel the machine's noise. With
--spin it waits on the clock instead, 550 us for 500. The window is shorter than `quick` and is
printed. Exit code 1 where fewer than 19 of 20 verdicts are right.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from lepton_edge import context, latency
from lepton_edge.model import Signature, TensorSpec
from lepton_edge.runtimes import null

SIGNATURE = Signature((TensorSpec("x", (1, 4), "float32"),), (TensorSpec("y", (1, 3), "float32"),))
WORK = ({"work": 100}, {"work": 110})
SPIN = ({"busy_us": 500.0}, {"busy_us": 550.0})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--pairs", type=int, default=latency.PAIRS)
    parser.add_argument("--window", default="50,0.3")
    parser.add_argument("--warmup", type=float, default=0.2)
    parser.add_argument("--spin", action="store_true")
    given = parser.parse_args()
    same, slower = SPIN if given.spin else WORK
    facts = context.capture(())
    print(
        f"{facts['cpu']['model']}, {facts['cpu']['cores']} cores, load"
        f" {facts['load']['average_1_min']:.2f}; {given.pairs} pairs of processes a comparison,"
        f" window {given.window} (runs, s), warm-up {given.warmup} s, margin"
        f" {100 * latency.MARGIN:g} %",
        flush=True,
    )
    print(f"A {same}, B {slower}")
    right = {"tie": 0, "slower": 0}
    counts = {wanted: Counter[str]() for wanted in right}
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="lepton-edge-") as folder:
        artifact = null.write(Path(folder), SIGNATURE)
        for index in range(given.runs):
            shown = []
            for wanted, options in (("tie", same), ("slower", slower)):
                found = latency.compare(
                    artifact,
                    artifact,
                    pairs=given.pairs,
                    window=given.window,
                    warmup_s=given.warmup,
                    a_options=same,
                    b_options=options,
                    threads=1,
                )
                counts[wanted][found.verdict] += 1
                right[wanted] += found.verdict == wanted
                low, high = found.interval
                shown.append(f"{found.verdict} {found.ratio:.3f} [{low:.3f}, {high:.3f}]")
            print(f"{index + 1:3}: A/A {shown[0]}; A/B {shown[1]}", flush=True)
    least = -(-given.runs * 19 // 20)
    print(f"A/A: tie in {right['tie']} of {given.runs} {dict(counts['tie'])}")
    print(f"A/B, 10 % more: slower in {right['slower']} of {given.runs} {dict(counts['slower'])}")
    print(f"{time.monotonic() - begin:.0f} s; wanted: {least} or more of each")
    return 0 if min(right.values()) >= least else 1


if __name__ == "__main__":
    sys.exit(main())
