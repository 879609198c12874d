"""The paper's own numbers, as CSV, in percent.

table2.csv: Table 2 (LLaMA-7B, recovered). table6.csv: Table 6 (LLaMA-7B, no recovery).
"""

from pathlib import Path

import pandas as pd

from rankadaptor.specs import TASKS

FOLDER = Path(__file__).parent


def published_rows() -> pd.DataFrame:
    """Tables 2 and 6 as one: columns block, method, the seven tasks and average, all in percent as printed."""
    tables = [pd.read_csv(FOLDER / name) for name in ("table6.csv", "table2.csv")]
    rows = pd.concat(tables, ignore_index=True)
    return rows[["block", "method", *TASKS, "average"]]
