"""The stages of the pipeline, one file each: what a stage reads, how it is computed, what it costs.

A new stage is a `Stage` that its module registers; a module outside the package is loaded as a plugin, see
`rankadaptor.plugins`.
"""

from rankadaptor.pipeline.stages.evaluate import Evaluate
from rankadaptor.pipeline.stages.generate import Generate
from rankadaptor.pipeline.stages.perplexity import Perplexity
from rankadaptor.pipeline.stages.prune import Prune
from rankadaptor.pipeline.stages.recover import Recover
from rankadaptor.pipeline.stages.stage import Stage

STAGES: dict[str, Stage] = {}


def register(stage: Stage) -> None:
    """Add a stage to STAGES under its name.

    Raises:
        ValueError: if a stage of that name is registered already.
    """
    if stage.name in STAGES:
        raise ValueError(f"stage {stage.name!r} is registered already: give it another name")
    STAGES[stage.name] = stage


for _stage in (Prune(), Recover(), Evaluate(), Perplexity(), Generate()):
    register(_stage)
