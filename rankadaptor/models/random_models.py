"""Models of a given shape with random weights, to measure what a machine does with that shape."""

from transformers import PreTrainedModel

from rankadaptor.architecture import Architecture
from rankadaptor.models.checkpoints import random_weights
from rankadaptor.models.pruned_llama import PrunedLlamaConfig


def random_model(shape: Architecture) -> PreTrainedModel:
    """The same random weights every time, in bfloat16, dense or pruned, in evaluation mode on the default device."""
    first = shape.layers[0]
    config = PrunedLlamaConfig(
        hidden_size=shape.hidden_size, head_dim=shape.head_dim, vocab_size=shape.vocab_size,
        tie_word_embeddings=shape.tied_embeddings, num_hidden_layers=len(shape.layers), num_attention_heads=first.heads,
        num_key_value_heads=first.kv_heads, intermediate_size=first.mlp_width,
        layer_shapes=[[layer.heads, layer.kv_heads, layer.mlp_width] for layer in shape.layers],
        original_layers=list(shape.original_layers), original_layer_count=shape.original_layer_count)
    return random_weights(config).eval()
