"""Data lists: JSON files that name a dataset's cases, their labels and folds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shared_nets.data.cases import FOLDS
from shared_nets.files import write_bytes

Item = dict[str, Any]


def write_data_list(path: Path, sections: Mapping[str, Sequence[Item]], description: str) -> Path:
    """
    Write a MONAI data list, one case a line.

    Args:
        path: the JSON file.
        sections: items by ``training``, ``validation`` and ``test``; paths start from the file's folder.
        description: what the data are.

    Returns:
        ``path``.

    Raises:
        OutputError: if it cannot be written.
    """
    parts = [f'"description": {json.dumps(description, ensure_ascii=False)}']
    for name, items in sections.items():
        lines = ",\n".join("  " + json.dumps(item, ensure_ascii=False) for item in items)
        parts.append(f'"{name}": [\n{lines}\n ]')
    write_bytes(path, ("{\n " + ",\n ".join(parts) + "\n}\n").encode())
    return path


def read_folds(data: Path) -> list[int]:
    """
    The folds of a data list, 0 to 4 where it names none: `find_cases` then splits in five.

    Args:
        data: a JSON data list, or any data set.
    """
    if data.suffix != ".json" or not data.is_file():
        return list(range(FOLDS))
    content = json.loads(data.read_text(encoding="utf-8"))
    items = content if isinstance(content, list) else content.get("training", [])
    folds = {item["fold"] for item in items if isinstance(item, dict) and "fold" in item}
    return sorted(folds) or list(range(FOLDS))
