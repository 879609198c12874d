"""RankAdaptor: hierarchical rank allocation for fine-tuning pruned LLMs, reproduced.

    from rankadaptor import main_table

    table = main_table(profile="tiny", blocks="llm-pruner:20")
    print(table.plan())
    result = table.run()

Notebooks import from here and from `rankadaptor.reporting`; `python -m rankadaptor` is for shells. Names are imported
when they are first used, since torch takes seconds. `AutoConfig` and `AutoModelForCausalLM` of transformers read
width-pruned checkpoints once this package is imported.
"""

import importlib
from typing import TYPE_CHECKING, Any

import wrapt

if TYPE_CHECKING:
    from rankadaptor.experiments.ablations import ablation_tables as ablation_tables
    from rankadaptor.experiments.explorer import Explorer as Explorer
    from rankadaptor.experiments.main_table import main_table as main_table
    from rankadaptor.experiments.paper_protocol import paper_protocol as paper_protocol
    from rankadaptor.experiments.parameters import check_parameters as check_parameters
    from rankadaptor.experiments.paths import ledger_folder as ledger_folder
    from rankadaptor.experiments.paths import reports_folder as reports_folder
    from rankadaptor.experiments.pruned_models import pruned_models as pruned_models
    from rankadaptor.experiments.rank_table import rank_table as rank_table
    from rankadaptor.experiments.rival_table import rival_table as rival_table
    from rankadaptor.experiments.testbed_quality import measure_testbed as testbed_quality  # noqa: F401
    from rankadaptor.experiments.user_model import user_model as user_model
    from rankadaptor.models.pruned_llama import PrunedLlamaConfig as PrunedLlamaConfig
    from rankadaptor.models.pruned_llama import PrunedLlamaForCausalLM as PrunedLlamaForCausalLM
    from rankadaptor.profiles import load_profile as load_profile
    from rankadaptor.pruning.folders import prune_folder as prune_folder
    from rankadaptor.pruning.spec import PruneSpec as PruneSpec
    from rankadaptor.reporting.paper.inconsistencies import inconsistencies as inconsistencies
    from rankadaptor.reporting.search_page import search_page as search_page

__version__ = "0.1.0"

# Where each name is defined: module:attribute.
_DEFINED = {
    "Explorer": "experiments.explorer:Explorer",
    "PruneSpec": "pruning.spec:PruneSpec",
    "PrunedLlamaConfig": "models.pruned_llama:PrunedLlamaConfig",
    "PrunedLlamaForCausalLM": "models.pruned_llama:PrunedLlamaForCausalLM",
    "ablation_tables": "experiments.ablations:ablation_tables",
    "check_parameters": "experiments.parameters:check_parameters",
    "inconsistencies": "reporting.paper.inconsistencies:inconsistencies",
    "ledger_folder": "experiments.paths:ledger_folder",
    "load_profile": "profiles:load_profile",
    "main_table": "experiments.main_table:main_table",
    "paper_protocol": "experiments.paper_protocol:paper_protocol",
    "prune_folder": "pruning.folders:prune_folder",
    "pruned_models": "experiments.pruned_models:pruned_models",
    "rank_table": "experiments.rank_table:rank_table",
    "reports_folder": "experiments.paths:reports_folder",
    "rival_table": "experiments.rival_table:rival_table",
    "search_page": "reporting.search_page:search_page",
    "testbed_quality": "experiments.testbed_quality:measure_testbed",
    "user_model": "experiments.user_model:user_model",
}
__all__ = list(_DEFINED)


def __getattr__(name: str) -> Any:
    if name not in _DEFINED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _DEFINED[name].partition(":")
    value = getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
    globals()[name] = value  # found there from now on
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _read_pruned_checkpoints(auto: Any) -> None:
    """Register `PrunedLlamaForCausalLM` before transformers reads its first configuration.

    Not earlier: transformers imports this module in the middle of others, LLaMA's among them.
    """
    wrapt.wrap_function_wrapper(auto.AutoConfig, "from_pretrained", _registered)


def _registered(read: Any, _: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    importlib.import_module("rankadaptor.models.pruned_llama")
    return read(*arguments, **options)


wrapt.register_post_import_hook(_read_pruned_checkpoints, "transformers.models.auto.configuration_auto")
