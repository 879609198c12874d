"""What pruning took from each block."""

import pandas as pd

from rankadaptor.experiments.results import TableResult
from rankadaptor.pruning.spec import PRUNERS, Block


def block_table(result: TableResult) -> pd.DataFrame:
    """What each block lost: the target rate, the pruner's own number, and the shares of parameters that really went."""
    lines = []
    for name, block in result.blocks.items():
        spec = result.profile.prune_spec(Block.parse(name))
        before, after = result.base, block.architecture
        middle = {shape for i, shape in zip(after.original_layers, after.layers, strict=True)
                  if spec.first_layer <= i < spec.end_layer}
        shape = middle.pop() if middle else None  # local ranking: all pruned layers are alike
        mlp_only = PRUNERS[spec.method].kind == "width" and shape and shape.kv_heads == before.layers[0].kv_heads
        lines.append({
            "block": name,
            "target rate (%)": spec.rate_percent,
            "pruner's number": f"ratio {spec.ratio:g}" if spec.ratio else f"{spec.blocks_removed} blocks",
            "decoder parameters gone (%)": 100 * (1 - after.decoder_parameters() / before.decoder_parameters()),
            "all parameters gone (%)": 100 * (1 - after.parameters() / before.parameters()),
            "layers": f"{len(after.layers)} of {len(before.layers)}",
            "heads / KV heads / MLP width of layers "
            f"{spec.first_layer + 1}-{spec.end_layer}": (
                f"{shape.heads} / {shape.kv_heads} / {shape.mlp_width}" if shape else "none left"),
            "note": "; ".join(filter(None, [
                "MLP-only: no KV head goes at this ratio" if mlp_only else "",
                "the ratio sets the heads, the MLP width is solved for the rate" if spec.decoder_share else "",
            ])),
        })
    return pd.DataFrame(lines)
