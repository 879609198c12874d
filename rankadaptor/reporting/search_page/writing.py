"""The page's files."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd

from rankadaptor.escaping import markdown_text
from rankadaptor.profiles import Profile
from rankadaptor.reporting.provenance import write_json
from rankadaptor.reporting.tables.writing import markdown, write_markdown


def write_page(
    profile: Profile,
    table: pd.DataFrame,
    digest: str,
    parts: Mapping[str, pd.DataFrame],
    verdict: str,
    keys: Iterable[str],
    folder: Path | str,
) -> Path:
    """Write search.md and search-provenance.json beside the executed notebook.

    Args:
        table: The rank table that searches were replayed on.
        digest: SHA-256 of the table's file.
        parts: The page's tables by their headings, in order.
        verdict: As Markdown.
        keys: Of the replays in the ledger.
    """
    path = Path(folder) / "search.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_markdown([
        f"# The search, replayed on {len(table):,} recoveries of profile {profile.name}",
        f"Base model: {markdown_text(profile.base_model.label)}. Scores that searches saw are of one training seed on"
        " the search split; regret is measured under the other training seed on the report split.",
        verdict,
        *(f"## {markdown_text(heading)}\n\n{markdown(part)}" for heading, part in parts.items()),
    ], path)
    write_json({
        "profile": profile.name,
        "rank_table_sha256": digest,
        "training_seeds": sorted(map(int, table["seed"].unique())),
        "recoveries": {f"{block} {scaling}": len(rows) for (block, scaling), rows in
                       table.groupby(["block", "scaling"], sort=False)},
        "ledger_keys": {"replays": list(keys)},
        "recovery_keys": "column recovery_key of the table",
    }, path.with_name("search-provenance.json"))
    return path
