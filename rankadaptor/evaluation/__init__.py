"""Zero-shot evaluation through lm-eval: its own task definitions and metrics over this project's sources."""

from rankadaptor.evaluation.requests import Requests
from rankadaptor.evaluation.scoring import evaluate

__all__ = ["Requests", "evaluate"]
