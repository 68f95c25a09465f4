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
    seen = {path: path.stat().st_size for path in folder.rglob(file)}
    thread = threading.Thread(target=_follow, args=(folder, file, seen, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _follow(folder: Path, file: str, seen: dict[Path, int], done: threading.Event) -> None:
    terminal = sys.stderr.isatty()
    last, waits = "", False  # the newest line, and whether it is still to be shown
    shown = -PLAIN_S
    over = False
    while not over:
        over = done.wait(0.25)  # what is written before the end is shown, however short it was
        for path in sorted(folder.rglob(file)):
            with path.open("rb") as lines:
                lines.seek(seen.get(path, 0))
                whole, end, _ = lines.read().rpartition(b"\n")  # a line may be half written
            if end:
                seen[path] = seen.get(path, 0) + len(whole) + 1
                last, waits = whole.splitlines()[-1].decode(), True
        if waits and (terminal or over or time.monotonic() - shown > PLAIN_S):
            shown, waits = time.monotonic(), False
            _show(json.loads(last), terminal)
    if terminal and last:
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
