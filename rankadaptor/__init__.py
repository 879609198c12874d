"""RankAdaptor: hierarchical rank allocation for fine-tuning pruned LLMs, reproduced.

The package is thin: rank spaces, the performance model, the search, importance estimates and the three stages
(prune, recover, evaluate). `rankadaptor.experiments` is the door for notebooks, `python -m rankadaptor` the one for
shells. Importing it makes transformers' Auto classes know width-pruned checkpoints.
"""

from rankadaptor.models.pruned_llama import PrunedLlamaConfig, PrunedLlamaForCausalLM

__all__ = ["PrunedLlamaConfig", "PrunedLlamaForCausalLM"]
__version__ = "0.1.0"
