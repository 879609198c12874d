"""Tables 1, 2 and 4 to 6, measured here, beside the published ones. No byte depends on machine, versions or times.

`accuracy` has the numbers with their intervals, `differences` what methods gain over LoRA and the verdicts, `pooled`
the same on all blocks together, `power` what the comparisons could see, `measured` the table as people read it,
`pruned` what pruning took, `ranks` the realised ranks, `ceiling` what one rank in every layer adds, `protocol` what the
paper's protocol prints, and for whom, `captions` the text under a table and `writing` its files.
"""

from rankadaptor.reporting.provenance import table_provenance, write_provenance
from rankadaptor.reporting.tables.accuracy import cells
from rankadaptor.reporting.tables.captions import caption
from rankadaptor.reporting.tables.ceiling import ceiling_frame, ceiling_table, ceiling_text, write_ceiling
from rankadaptor.reporting.tables.differences import (
    difference_table,
    differences_to_lora,
    task_differences,
    task_table,
)
from rankadaptor.reporting.tables.measured import measured_table, published_block_table
from rankadaptor.reporting.tables.pooled import pooled_frame, pooled_table
from rankadaptor.reporting.tables.power import power_frame, power_table
from rankadaptor.reporting.tables.protocol import (
    best_of_frame,
    protocol_frame,
    protocol_table,
    protocol_text,
    write_protocol,
)
from rankadaptor.reporting.tables.pruned import block_table
from rankadaptor.reporting.tables.ranks import rank_spread_table, realised_allocations
from rankadaptor.reporting.tables.writing import judged_parts, markdown, write_table

__all__ = [
    "best_of_frame",
    "block_table",
    "caption",
    "ceiling_frame",
    "ceiling_table",
    "ceiling_text",
    "cells",
    "difference_table",
    "differences_to_lora",
    "judged_parts",
    "markdown",
    "measured_table",
    "pooled_frame",
    "pooled_table",
    "power_frame",
    "power_table",
    "protocol_frame",
    "protocol_table",
    "protocol_text",
    "published_block_table",
    "rank_spread_table",
    "realised_allocations",
    "table_provenance",
    "task_differences",
    "task_table",
    "write_ceiling",
    "write_protocol",
    "write_provenance",
    "write_table",
]
