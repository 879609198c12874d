"""The best allocation of a measured table is the best mean over its training seeds, within budget."""

import pandas as pd
import pytest

from rankadaptor.data.tasks import TASKS
from rankadaptor.ranktable.meta_records import best_measured


def row(allocation, seed, score, within_budget=True, block="llm-pruner:50", scaling="fixed_alpha"):
    scores = {f"search_{task}_gold_probability": score for task in TASKS}
    return {"block": block, "scaling": scaling, "seed": seed, "allocation": allocation, "origin": "random",
            "within_budget": within_budget, "held_out_loss": 1.0, "training_loss": 1.0, **scores}


TABLE = pd.DataFrame([
    row("8 8 8", 1000, 0.50), row("8 8 8", 1001, 0.50),
    row("8 4 12", 1000, 0.60), row("8 4 12", 1001, 0.45),  # the best mean
    row("8 12 4", 1000, 0.61), row("8 12 4", 1001, 0.40),  # lucky once
    row("8 6 8", 1000, 0.70),  # measured once alone
    row("24 24 24", 1000, 0.9, within_budget=False), row("24 24 24", 1001, 0.9, within_budget=False),
    row("8 16 1", 1000, 0.9, scaling="constant"), row("8 16 1", 1001, 0.9, scaling="constant"),
])


@pytest.mark.parametrize(("block", "scaling", "best"), [
    ("llm-pruner:50", "fixed_alpha", (8, 4, 12)), ("llm-pruner:50", "constant", (8, 16, 1)),
    ("shortened:50", "fixed_alpha", None)])
def test_the_best_is_the_best_mean_within_budget(block, scaling, best):
    assert best_measured(TABLE, block, scaling, "gold_probability") == best
