"""The JSON report: every check with its evidence, in one file that is written whole."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from cp_compress.base.files import write_atomically


def write_json(document: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Replace the file at `path` with the report; missing folders are made."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
