"""Write a JSON file that appears whole or not at all. Knows nothing of what it says."""

from __future__ import annotations

import json
import os
from pathlib import Path


def write_json(content: dict, path: Path) -> None:
    """`content` as JSON, keys sorted; the file appears whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".tmp")
    draft.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(draft, path)
