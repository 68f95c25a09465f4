"""Shows how a training in another process gets on, from the lines it writes."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

PLAIN_S = 10.0  # between lines where stderr is no terminal
WIDTH = 30


@contextlib.contextmanager
def followed(folder: Path, file: str) -> Iterator[None]:
    """Within the block, new lines of any `file` under `folder` appear on stderr."""
    done = threading.Event()
    thread = threading.Thread(target=_follow, args=(folder, file, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _follow(folder: Path, file: str, done: threading.Event) -> None:
    terminal = sys.stderr.isatty()
    seen = {path: path.stat().st_size for path in folder.rglob(file)}
    shown = 0.0
    drawn = False
    while not done.wait(0.25):
        for path in sorted(folder.rglob(file)):
            with path.open() as lines:
                lines.seek(seen.get(path, 0))
                new = [line for line in lines.read().splitlines() if line.endswith("}")]
                seen[path] = lines.tell()
            if new and (terminal or time.monotonic() - shown > PLAIN_S):
                shown, drawn = time.monotonic(), True
                _show(json.loads(new[-1]), terminal)
    if terminal and drawn:
        print(file=sys.stderr)


def _show(line: dict[str, float], terminal: bool) -> None:
    share = line["step"] / line["steps"]
    left = (line["steps"] - line["step"]) / max(line["steps_per_s"], 1e-9)
    text = (
        f"step {line['step']:,.0f} of {line['steps']:,.0f}, loss {line['loss']:.4f},"
        f" accuracy {100 * line['accuracy']:.1f} %, {left:,.0f} s left"
    )
    if terminal:
        bar = "#" * round(WIDTH * share)
        print(f"\r[{bar:<{WIDTH}}] {text}\x1b[K", end="", file=sys.stderr, flush=True)
    else:
        print(text, file=sys.stderr, flush=True)
