"""Shapes of LLaMA-family models and what pruning does to them, from configuration alone: no weights are read.

Counts follow LLM-Pruner's rounding (the number of removed heads is rounded down, the number of remaining MLP channels
truncated) and are checked against its published parameter counts in tests/test_architecture.py.
"""

from dataclasses import dataclass, replace
from typing import Any, Self

from rankadaptor.errors import BadInput

# The seven linear layers that every adapter of the paper targets, in LLaMA's names.
ATTENTION_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP_PROJECTIONS = ("gate_proj", "up_proj", "down_proj")
PROJECTIONS = ATTENTION_PROJECTIONS + MLP_PROJECTIONS


def module_name(position: int, projection: str) -> str:
    """Full name of a projection in a LLaMA, by the position of its layer in that model (0-based)."""
    return f"model.layers.{position}.{'mlp' if projection in MLP_PROJECTIONS else 'self_attn'}.{projection}"


@dataclass(frozen=True)
class LayerShape:
    """Widths of one decoder layer. `heads` is a multiple of `kv_heads` (grouped-query attention)."""

    heads: int
    kv_heads: int
    mlp_width: int

    def pruned(self, ratio: float, head_dim: int) -> "LayerShape":
        """The layer without `ratio` of its heads and MLP channels, by LLM-Pruner's rounding."""
        channels = self.kv_heads * head_dim
        removed_heads = (channels - int(channels * (1 - ratio))) // head_dim
        kv_heads = self.kv_heads - removed_heads
        group = self.heads // self.kv_heads
        return LayerShape(kv_heads * group, kv_heads, int(self.mlp_width * (1 - ratio)))


@dataclass(frozen=True)
class Ranges:
    """Layers whose heads and whose MLP channels may be pruned, 0-based and end-exclusive; the two may differ."""

    attention: tuple[int, int]
    mlp: tuple[int, int]

    def check(self, layers: int) -> None:
        """Check both ranges against a model.

        Args:
            layers: How many decoder layers the model has.

        Raises:
            BadInput: if a range is empty or reaches beyond the model.
        """
        for first, end in (self.attention, self.mlp):
            if not 0 <= first < end <= layers:
                raise BadInput(f"layers {first}..{end - 1} do not lie in a model of {layers} layers: name some of"
                               f" 0..{layers - 1}")


@dataclass(frozen=True)
class Architecture:
    """A LLaMA-family decoder: one shape per layer that is present, and the index of each in the unpruned model."""

    hidden_size: int
    head_dim: int
    vocab_size: int
    tied_embeddings: bool
    layers: tuple[LayerShape, ...]
    original_layers: tuple[int, ...]  # 0-based index of each layer in the unpruned model
    original_layer_count: int

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Read a LLaMA `config.json`, dense or with this package's `layer_shapes` and `original_layers`."""
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
        """Parameters of all decoder layers, without embeddings and final norm."""
        return sum(self.layer_parameters(layer) for layer in self.layers)

    def parameters(self) -> int:
        """All parameters; a tied output head counts once."""
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tied_embeddings else 2)
        return self.decoder_parameters() + embeddings + self.hidden_size

    def macs(self, tokens: int) -> int:
        """Multiply-accumulates of one forward pass over a sequence, output head included.

        All tokens x tokens products of attention count, masked ones as well; norms, softmax and rotations do not.

        Args:
            tokens: Length of the sequence.
        """
        linear = sum(i * o for layer in self.layers for i, o in self._projection_shapes(layer).values())
        attention = sum(2 * tokens * layer.heads * self.head_dim for layer in self.layers)
        return tokens * (linear + attention + self.vocab_size * self.hidden_size)

    def kv_head_parameters(self, layer: LayerShape) -> int:
        """Parameters that go with one KV head of a layer: of the head itself and of the query heads that share it."""
        return 2 * self.hidden_size * self.head_dim * (layer.heads // layer.kv_heads + 1)

    def channel_parameters(self) -> int:
        """Parameters that go with one MLP channel: a row of gate and up, a column of down."""
        return 3 * self.hidden_size

    def rank_costs(self) -> tuple[int, ...]:
        """Trainable parameters of one unit of rank per *original* layer; 0 where the layer was removed.

        A LoRA pair on a matrix of (in, out) features costs r * (in + out) (Section 2: 2dr in place of d^2).
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
            ratio: LLM-Pruner's `pruning_ratio`. An MLP of width C loses C - int(C * (1 - ratio)) channels. Attention
                loses as many of its C = KV heads * head size, in whole KV heads, the number of which is rounded down;
                the query heads that share a removed KV head go with it.
            decoder_share: When given, the MLP width is solved so that this share of the decoder's parameters is removed
                in all, whatever the rounding of heads leaves (for models with few KV heads).

        Raises:
            BadInput: if a range does not fit the model or a layer would lose everything.
        """
        ranges.check(len(self.layers))
        attention, mlp = range(*ranges.attention), range(*ranges.mlp)
        shapes = []
        for position, dense in enumerate(self.layers):
            pruned = dense.pruned(ratio, self.head_dim)
            heads = pruned if position in attention else dense
            channels = pruned if position in mlp else dense
            shapes.append(LayerShape(heads.heads, heads.kv_heads, channels.mlp_width))
        if decoder_share is not None:
            width = self._mlp_width(shapes, mlp, ratio, decoder_share)
            shapes = [replace(shape, mlp_width=width) if i in mlp else shape for i, shape in enumerate(shapes)]
        if min(min(shape.kv_heads, shape.mlp_width) for shape in shapes) < 1:
            request = f"ratio {ratio}" if decoder_share is None else f"ratio {ratio} with a share of {decoder_share}"
            raise BadInput(f"{request} leaves a layer without heads or MLP channels: give a smaller one")
        return replace(self, layers=tuple(shapes))

    def _mlp_width(self, shapes: list[LayerShape], mlp: range, ratio: float, decoder_share: float) -> int:
        """The MLP width of the pruned layers with which `decoder_share` of the decoder's parameters is removed.

        Args:
            shapes: Of all layers, with their heads pruned.
            mlp: Positions of the layers whose MLP is pruned.
        """
        target = self.decoder_parameters() - round(decoder_share * self.decoder_parameters())
        without_mlp = [replace(shape, mlp_width=0) if i in mlp else shape for i, shape in enumerate(shapes)]
        available = target - sum(self.layer_parameters(shape) for shape in without_mlp)
        width = round(available / (self.channel_parameters() * len(mlp)))
        if width > (most := min(self.layers[i].mlp_width for i in mlp)):
            raise BadInput(f"a share of {decoder_share} needs {width} MLP channels, {most} are there: at ratio"
                           f" {ratio} the heads alone take more, give a larger share or a smaller ratio")
        return width

    def depth_pruned(self, removed: tuple[int, ...]) -> Self:
        """Shapes after whole decoder blocks are removed.

        Args:
            removed: Positions in this model, 0-based.
        """
        remaining = [position for position in range(len(self.layers)) if position not in set(removed)]
        return replace(
            self,
            layers=tuple(self.layers[position] for position in remaining),
            original_layers=tuple(self.original_layers[position] for position in remaining),
        )
