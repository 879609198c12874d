"""The testbed's page: margins, spread between allocations, answers, cost, and the regimes that were rejected."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from rankadaptor.data.tasks import TASKS
from rankadaptor.experiments.testbed_quality import TestbedMeasurements
from rankadaptor.reporting.tables import TASK_NAMES, entries_provenance, markdown, write_json
from rankadaptor.testbed import REJECTED


def regime_table(instrument: TestbedMeasurements) -> pd.DataFrame:
    """Percent by task, the margin over chance, what pruning took of it and LoRA won back of that."""
    frame = instrument.regime()
    shown: dict[str, Any] = {"block": frame["block"], "model": frame["model"]}
    shown |= {TASK_NAMES[task]: _percent(frame[task]) for task in TASKS}
    shown |= {name: _percent(frame[name]) for name in ("mean", "margin", "gold probability", "lost", "won back")}
    return pd.DataFrame(shown)


def signal_table(instrument: TestbedMeasurements) -> pd.DataFrame:
    """Standard deviations in points (of the loss in hundredths of a nat), and their ratio with its 95 % interval."""
    frame = instrument.signal()
    points = {name: [f"{100 * value:.2f}" for value in frame[name]] for name in ("between", "noise")}
    ratios = [f"{row.ratio:.2f} [{row.ratio_low:.2f}, {row.ratio_high:.2f}]" for row in frame.itertuples()]
    return frame.assign(**points, ratio=ratios).drop(columns=["ratio_low", "ratio_high"])


def rejected_regimes() -> pd.DataFrame:
    """What was tried on the way, measured on tuning items unless said, and why it was dropped."""
    return pd.read_csv(REJECTED, dtype=str, keep_default_na=False)


def write_page(instrument: TestbedMeasurements, parts: Mapping[str, pd.DataFrame], folder: Path | str) -> Path:
    """Write testbed.md and testbed-provenance.json beside the executed notebook.

    Args:
        parts: The tables by their headings, in order.
    """
    path = Path(folder) / "testbed.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    candidates = instrument.profile.search.candidates
    path.write_text("\n\n".join([
        f"# The testbed of profile {instrument.profile.name}, measured on its {instrument.split} items",
        f"Base model: {instrument.profile.base_model.label}. Budget {instrument.budget_name}, training seeds "
        f"{', '.join(map(str, instrument.seeds))}. Candidate ranks {', '.join(map(str, candidates))}. Percent and "
        "points; losses in hundredths of a nat.",
        *(f"## {heading}\n\n{markdown(table)}" for heading, table in parts.items()),
    ]) + "\n")
    behind = {"profile": instrument.profile.name, "budget": instrument.budget_name, "split": instrument.split,
              "training_seeds": list(instrument.seeds)}
    behind |= entries_provenance(instrument.profile, instrument.keys(), instrument.runner.ledger)
    write_json(behind, path.with_name("testbed-provenance.json"))
    return path


def _percent(values: pd.Series) -> list[str]:
    return ["" if pd.isna(value) else f"{100 * value:.1f}" for value in values]
