"""A small world of our own: facts, text, seven miniature tasks, and a LLaMA that was pretrained on them."""

from pathlib import Path

MODEL = Path(__file__).parent / "model"
REJECTED = Path(__file__).parent / "rejected_regimes.csv"
TASK_DEFINITIONS = Path(__file__).parent / "task_definitions"
