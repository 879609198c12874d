"""Shapes of LLaMA-family models and what pruning does to them, from configuration alone: no weights are read.

Counts follow LLM-Pruner's rounding (heads rounded down in removal, kept MLP channels truncated) and are checked against
its published parameter counts in tests/test_architecture.py.
"""

from dataclasses import dataclass, replace
from typing import Any, Self

from rankadaptor.errors import BadInput

# The seven linear layers that every adapter of the paper targets, in LLaMA's names.
ATTENTION_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP_PROJECTIONS = ("gate_proj", "up_proj", "down_proj")
PROJECTIONS = ATTENTION_PROJECTIONS + MLP_PROJECTIONS


def module_name(position: int, projection: str) -> str:
    """A projection's name in a LLaMA, by the layer's position in that model."""
    return f"model.layers.{position}.{'mlp' if projection in MLP_PROJECTIONS else 'self_attn'}.{projection}"


@dataclass(frozen=True)
class LayerShape:
    """Widths of one decoder layer. `heads` is a multiple of `kv_heads` (grouped-query attention)."""

    heads: int
    kv_heads: int
    mlp_width: int


@dataclass(frozen=True)
class Ranges:
    """Layers whose heads and whose MLP channels may go, 0-based and end-exclusive; the two may differ."""

    attention: tuple[int, int]
    mlp: tuple[int, int]

    def check(self, layers: int) -> None:
        """Raises BadInput if a range is empty or leaves a model of so many layers."""
        for first, end in (self.attention, self.mlp):
            if not 0 <= first < end <= layers:
                raise BadInput(f"layers {first}..{end - 1} do not lie in a model of {layers} layers: name some of"
                               f" 0..{layers - 1}")


@dataclass(frozen=True)
class Architecture:
    """A LLaMA-family decoder: one shape per layer that is present, and where each stood in the unpruned model."""

    hidden_size: int
    head_dim: int
    vocab_size: int
    tied_embeddings: bool
    layers: tuple[LayerShape, ...]
    original_layers: tuple[int, ...]  # 0-based index of each layer in the unpruned model
    original_layer_count: int

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Read a LLaMA `config.json`: dense, or with this package's `layer_shapes` and `original_layers`."""
        heads = config["num_attention_heads"]
        kv_heads = config.get("num_key_value_heads") or heads
        count = config["num_hidden_layers"]
        dense = [[heads, kv_heads, config["intermediate_size"]]] * count
        shapes = config.get("layer_shapes") or dense
        return cls(
            hidden_size=config["hidden_size"],
            head_dim=config.get("head_dim") or config["hidden_size"] // heads,
            vocab_size=config["vocab_size"],
            tied_embeddings=bool(config.get("tie_word_embeddings", False)),
            layers=tuple(LayerShape(*shape) for shape in shapes),
            original_layers=tuple(config.get("original_layers") or range(count)),
            original_layer_count=config.get("original_layer_count") or count,
        )

    # -- sizes ------------------------------------------------------------------------------------------------------

    def _projection_shapes(self, layer: LayerShape) -> dict[str, tuple[int, int]]:
        """(in, out) features of the seven linear layers."""
        hidden, query, kv = self.hidden_size, layer.heads * self.head_dim, layer.kv_heads * self.head_dim
        return {
            "q_proj": (hidden, query),
            "k_proj": (hidden, kv),
            "v_proj": (hidden, kv),
            "o_proj": (query, hidden),
            "gate_proj": (hidden, layer.mlp_width),
            "up_proj": (hidden, layer.mlp_width),
            "down_proj": (layer.mlp_width, hidden),
        }

    def weight_shapes(self, position: int) -> dict[str, tuple[int, int]]:
        """Shapes of the seven weights of a layer, by projection.  # (out, in)"""
        return {name: (o, i) for name, (i, o) in self._projection_shapes(self.layers[position]).items()}

    def layer_parameters(self, layer: LayerShape) -> int:
        """Parameters of one decoder layer: seven matrices and two RMSNorms."""
        return sum(i * o for i, o in self._projection_shapes(layer).values()) + 2 * self.hidden_size

    def decoder_parameters(self) -> int:
        """Parameters of all decoder layers, embeddings and final norm left out."""
        return sum(self.layer_parameters(layer) for layer in self.layers)

    def parameters(self) -> int:
        """All parameters; a tied output head counts once."""
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tied_embeddings else 2)
        return self.decoder_parameters() + embeddings + self.hidden_size

    def macs(self, tokens: int) -> int:
        """Multiply-accumulates of one forward pass over a sequence, output head included.

        Of attention, all tokens x tokens products count, masked ones as well; norms, softmax and rotations do not.
        """
        linear = sum(i * o for layer in self.layers for i, o in self._projection_shapes(layer).values())
        attention = sum(2 * tokens * layer.heads * self.head_dim for layer in self.layers)
        return tokens * (linear + attention + self.vocab_size * self.hidden_size)

    def kv_head_parameters(self, layer: LayerShape) -> int:
        """Parameters that go with one KV head of a layer: its own, and those of the query heads it owns."""
        return 2 * self.hidden_size * self.head_dim * (layer.heads // layer.kv_heads + 1)

    def channel_parameters(self) -> int:
        """Parameters that go with one MLP channel: a row of gate and up, a column of down."""
        return 3 * self.hidden_size

    def rank_costs(self) -> tuple[int, ...]:
        """Trainable parameters of one unit of rank per *original* layer; 0 where the layer is gone.

        A LoRA pair on a matrix of (in, out) features costs r * (in + out).
        """
        costs = [0] * self.original_layer_count
        for original, layer in zip(self.original_layers, self.layers, strict=True):
            costs[original] = sum(i + o for i, o in self._projection_shapes(layer).values())
        return tuple(costs)

    # -- pruning ----------------------------------------------------------------------------------------------------

    def width_pruned(self, ranges: Ranges, ratio: float, decoder_share: float | None = None) -> Self:
        """Shapes after LLM-Pruner with local ranking.

        Args:
            ranges: Layers that are pruned.
            ratio: LLM-Pruner's `pruning_ratio`. Of C channels, C - int(C * (1 - ratio)) go; whole heads only, rounded
                down in removal. With few KV heads a KV head goes with all query heads it owns.
            decoder_share: When given, the MLP width is solved so that this share of the decoder's parameters goes in
                all, whatever the heads' rounding left (for models with few KV heads).

        Raises:
            BadInput: if a range does not fit the model or a layer would lose everything.
        """
        ranges.check(len(self.layers))
        attention, mlp = range(*ranges.attention), range(*ranges.mlp)
        ruled = [self._prune_shape(shape, ratio) for shape in self.layers]
        pruned = []
        for i, (shape, small) in enumerate(zip(self.layers, ruled, strict=True)):
            heads = small if i in attention else shape
            pruned.append(LayerShape(heads.heads, heads.kv_heads, (small if i in mlp else shape).mlp_width))
        if decoder_share is not None:
            target = self.decoder_parameters() - round(decoder_share * self.decoder_parameters())
            bare = [replace(shape, mlp_width=0) if i in mlp else shape for i, shape in enumerate(pruned)]
            left = target - sum(self.layer_parameters(shape) for shape in bare)
            width = round(left / (self.channel_parameters() * len(mlp)))
            if width > (most := min(self.layers[i].mlp_width for i in mlp)):
                raise BadInput(f"a share of {decoder_share} asks for {width} MLP channels, {most} are there: at ratio"
                               f" {ratio} the heads alone take more, give a larger share or a smaller ratio")
            pruned = [replace(shape, mlp_width=width) if i in mlp else shape for i, shape in enumerate(pruned)]
        layers = tuple(pruned)
        if min(min(shape.kv_heads, shape.mlp_width) for shape in layers) < 1:
            asked = f"ratio {ratio}" if decoder_share is None else f"ratio {ratio} with a share of {decoder_share}"
            raise BadInput(f"{asked} leaves a layer without heads or MLP channels: give a smaller one")
        return replace(self, layers=layers)

    def _prune_shape(self, shape: LayerShape, ratio: float) -> LayerShape:
        channels = shape.kv_heads * self.head_dim
        removed_heads = (channels - int(channels * (1 - ratio))) // self.head_dim
        kv_heads = shape.kv_heads - removed_heads
        group = shape.heads // shape.kv_heads
        return LayerShape(kv_heads * group, kv_heads, int(shape.mlp_width * (1 - ratio)))

    def depth_pruned(self, removed: tuple[int, ...]) -> Self:
        """Shapes after whole blocks (0-based positions in this model) are removed."""
        kept = [i for i in range(len(self.layers)) if i not in set(removed)]
        return replace(
            self,
            layers=tuple(self.layers[i] for i in kept),
            original_layers=tuple(self.original_layers[i] for i in kept),
        )
