"""What each table compares, and with which of the paper's numbers. A table of one's own is one `Contents`."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from rankadaptor.experiments.methods import (
    ADALORA,
    CEILING_RANKS,
    CEILING_SCALINGS,
    LARGEST,
    LARGEST_CONSTANT,
    LORA,
    LORA_STAR,
    MIRROR,
    RANKADAPTOR,
    RANKADAPTOR_CONSTANT,
    RANKADAPTOR_PER_TASK,
    SHUFFLED,
    uniform_label,
)
from rankadaptor.plugins import add_entry

# Of Tables 2, 4 and 5.
MAIN = (LORA, LORA_STAR, ADALORA, LARGEST, LARGEST_CONSTANT, RANKADAPTOR, RANKADAPTOR_CONSTANT)
LEAST_GAIN = 0.007  # claimed in the paper's abstract: 0.7 points
CLAIMED = {RANKADAPTOR: LEAST_GAIN, RANKADAPTOR_CONSTANT: LEAST_GAIN, RANKADAPTOR_PER_TASK: LEAST_GAIN}


@dataclass(frozen=True)
class Contents:
    """The methods that a table compares, and the paper's numbers beside them."""

    name: str  # of its files
    title: str
    methods: tuple[str, ...]  # recovered rows; none where pruned models are measured as they are, with perplexities
    claims: Mapping[str, float] = field(default_factory=dict)  # method -> least gain over LoRA, below 0 a loss
    generates: bool = False  # whether models continue the profile's prompts, too
    published: str = "LLaMA-7B"  # a model of `reporting.paper.RECOVERED`, whose numbers stand beside ours
    best_measured: bool = False  # whether the best allocations of the rank table are retrained


TABLES: dict[str, Contents] = {}


def register(contents: Contents) -> None:
    """Make a table known by its name.

    Raises:
        BadInput: if another table has that name.
    """
    add_entry(TABLES, "table", contents.name, contents)


register(Contents("table1", "Table 1", (LORA, ADALORA), {ADALORA: -0.0056}))
register(Contents("figure2", "Figure 2", (LORA, LORA_STAR, MIRROR, *SHUFFLED), {LORA_STAR: LEAST_GAIN}))
register(Contents("table2", "Table 2", MAIN, CLAIMED))
register(Contents("table4", "Table 4", MAIN, CLAIMED, published="Vicuna-7B"))
register(Contents("table5", "Table 5", MAIN, CLAIMED, published="LLaMA-13B"))
register(Contents("table6", "Table 6", ()))
register(Contents("figure5", "Figures 5 and 6", (LORA, RANKADAPTOR), CLAIMED, generates=True))
register(Contents("headroom", "Headroom", (LORA,)))
register(Contents("ceiling", "Ceiling of uniform ranks", (
    LORA, *(uniform_label(rank, scaling) for scaling in CEILING_SCALINGS for rank in CEILING_RANKS)),
    best_measured=True))
