"""The testbed's page: margins, spread between allocations, answers, cost, and the regimes that were rejected."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from rankadaptor.data.tasks import BENCHMARKS
from rankadaptor.escaping import markdown_text
from rankadaptor.experiments.testbed_quality import TestbedMeasurements
from rankadaptor.reporting.labels import task_label
from rankadaptor.reporting.provenance import entries_provenance, write_json
from rankadaptor.reporting.tables.writing import markdown, write_markdown
from rankadaptor.testbed import REJECTED


def regime_table(quality: TestbedMeasurements) -> pd.DataFrame:
    """Percent by task, the margin over chance, the share of it that pruning took, and of that what LoRA won back."""
    frame = quality.regime()
    shown: dict[str, Any] = {"block": frame["block"], "model": frame["model"]}
    shown |= {task_label(task): _percent(frame[task]) for task in frame.columns if task in BENCHMARKS}
    shown |= {name: _percent(frame[name]) for name in ("mean", "margin", "gold probability", "lost", "won back")}
    return pd.DataFrame(shown)


def signal_table(quality: TestbedMeasurements) -> pd.DataFrame:
    """Standard deviations in points (of the loss in hundredths of a nat), and their ratio with its 95 % interval."""
    frame = quality.signal()
    points = {name: [f"{100 * value:.2f}" for value in frame[name]] for name in ("between", "noise")}
    ratios = [f"{row.ratio:.2f} [{row.ratio_low:.2f}, {row.ratio_high:.2f}]" for row in frame.itertuples()]
    return frame.assign(**points, ratio=ratios).drop(columns=["ratio_low", "ratio_high"])


def rejected_regimes() -> pd.DataFrame:
    """Regimes that were tried, measured on tuning items unless stated otherwise, and why each was rejected."""
    return pd.read_csv(REJECTED, dtype=str, keep_default_na=False)


def write_page(quality: TestbedMeasurements, parts: Mapping[str, pd.DataFrame], folder: Path | str) -> Path:
    """Write testbed.md, which it returns, testbed-provenance.json, testbed-margins.csv (proportions, as
    `TestbedMeasurements.regime` has them) and testbed-spread.csv (as `TestbedMeasurements.signal` has it).

    Args:
        parts: The tables by their headings, in order.
    """
    path = Path(folder) / "testbed.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    profile, seeds = quality.profile, quality.seeds
    write_markdown([
        f"# The testbed of profile {profile.name}, measured on its {quality.split} items",
        f"Base model: {markdown_text(profile.base_model.label)}. Budget {quality.budget_name}, training seeds "
        f"{', '.join(map(str, seeds))}. Candidate ranks {', '.join(map(str, profile.search.candidates))}. Percent and "
        "points; losses in hundredths of a nat.",
        *(f"## {markdown_text(heading)}\n\n{markdown(table)}" for heading, table in parts.items()),
    ], path)
    settings = {"profile": profile.name, "budget": quality.budget_name, "split": quality.split,
                "training_seeds": list(seeds)}
    origin = entries_provenance(profile, quality.keys(), quality.runner.ledger)
    write_json(settings | origin, path.with_name("testbed-provenance.json"))
    for name, frame in (("margins", quality.regime()), ("spread", quality.signal())):
        frame.to_csv(path.with_name(f"testbed-{name}.csv"), index=False, float_format="%.6f")
    return path


def _percent(values: pd.Series) -> list[str]:
    return ["" if pd.isna(value) else f"{100 * value:.1f}" for value in values]
