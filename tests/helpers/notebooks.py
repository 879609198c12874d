"""Reading executed notebooks."""

import json
from pathlib import Path


def code_cells(path: Path) -> list[dict]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def assert_executed(path: Path) -> None:
    """Top to bottom, every cell once."""
    counts = [cell["execution_count"] for cell in code_cells(path)]
    assert counts == list(range(1, len(counts) + 1)), path
