"""The stages of the pipeline, one file each: what a stage reads, how it is computed, what it costs.

A new stage is a `Stage` that its module registers; a module outside the package is loaded as a plugin, see
`rankadaptor.plugins`.
"""

from rankadaptor.pipeline.result_schema import declare
from rankadaptor.pipeline.stages.evaluate import Evaluate
from rankadaptor.pipeline.stages.generate import Generate
from rankadaptor.pipeline.stages.perplexity import Perplexity
from rankadaptor.pipeline.stages.prune import Prune
from rankadaptor.pipeline.stages.recover import Recover
from rankadaptor.pipeline.stages.stage import Stage
from rankadaptor.plugins import add_entry

STAGES: dict[str, Stage] = {}


def register(stage: Stage) -> None:
    """Add a stage to STAGES under its name.

    Raises:
        BadInput: if a stage of that name is registered already.
    """
    add_entry(STAGES, "stage", stage.name, stage)
    declare(stage.name, stage.result_fields)


for _stage in (Prune(), Recover(), Evaluate(), Perplexity(), Generate()):
    register(_stage)
