"""Writes docs/cli.md from the commands' own --help; --check says whether it is up to date."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import sys
from pathlib import Path

PAGE = Path(__file__).with_name("cli.md")


def help_of(*words: str) -> str:
    """What `lepton-edge WORDS --help` prints, at a fixed width."""
    from lepton_edge import cli

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = cli.run([*words, "--help"])
    if code:
        raise SystemExit(f"lepton-edge {' '.join(words)} --help gave exit code {code}.")
    return "\n".join(line.rstrip() for line in out.getvalue().strip().splitlines())


def page() -> str:
    top = help_of()
    verbs = re.findall(r"^  (\w+)  ", top.partition("Commands:")[2], re.MULTILINE)
    if not verbs:
        raise SystemExit("No verbs found in the help of lepton-edge.")
    parts = [
        "# The command line",
        "Written by `make docs` from `--help`; `make check` compares. Exit codes: 0 ok, 1 internal,"
        " 2 usage, 3 gate failed or undecided, 4 backend missing, 5 fallback or placement,"
        " 6 unstable measurement, 7 cannot convert, 8 bad or untrusted input file,"
        " 130 interrupted.",
        f"```\n{top}\n```",
    ]
    parts += [f"## {verb}\n```\n{help_of(verb)}\n```" for verb in verbs]
    return "\n\n".join(parts) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing, fail if stale")
    check = parser.parse_args().check
    # The width of help texts follows the terminal, so it is set here.
    os.environ.update(COLUMNS="100", TERMINAL_WIDTH="100", NO_COLOR="1")
    text = page()
    if not check:
        PAGE.write_text(text)
        return 0
    if not PAGE.exists() or PAGE.read_text() != text:
        print("docs/cli.md is not what --help says: run `make docs`.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
