"""The folder where lepton-edge keeps what it may need again."""

from __future__ import annotations

import os
from pathlib import Path


def folder(*parts: str) -> Path:
    """`lepton-edge` in the user's cache folder (XDG_CACHE_HOME, else ~/.cache), and on to `parts`.

    It need not exist.
    """
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root, "lepton-edge", *parts)
