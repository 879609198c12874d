"""A small world of our own: facts, text, seven miniature tasks, and a LLaMA that was pretrained on them."""

from pathlib import Path
from typing import Any

Row = dict[str, Any]  # an item or an instruction in the schema of its hub data set

MODEL = Path(__file__).parent / "model"
REJECTED = Path(__file__).parent / "rejected_regimes.csv"
TASK_DEFINITIONS = Path(__file__).parent / "task_definitions"
