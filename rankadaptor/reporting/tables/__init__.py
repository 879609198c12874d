"""Tables 1, 2 and 4 to 6, measured here, beside the published ones. No byte depends on machine, versions or times.

`accuracy` has the numbers with their intervals, `differences` what methods gain over LoRA, `measured` the table as
people read it, `pruned` what pruning took, `ranks` the realised ranks, `captions` the text under a table and `writing`
its files.
"""

from rankadaptor.reporting.provenance import table_provenance, write_provenance
from rankadaptor.reporting.tables.accuracy import cells
from rankadaptor.reporting.tables.captions import caption
from rankadaptor.reporting.tables.differences import (
    difference_table,
    differences_to_lora,
    task_differences,
    task_table,
)
from rankadaptor.reporting.tables.measured import measured_table, published_block_table
from rankadaptor.reporting.tables.pruned import block_table
from rankadaptor.reporting.tables.ranks import rank_spread_table, realised_allocations
from rankadaptor.reporting.tables.writing import markdown, write_table

__all__ = [
    "block_table",
    "caption",
    "cells",
    "difference_table",
    "differences_to_lora",
    "markdown",
    "measured_table",
    "published_block_table",
    "rank_spread_table",
    "realised_allocations",
    "table_provenance",
    "task_differences",
    "task_table",
    "write_provenance",
    "write_table",
]
