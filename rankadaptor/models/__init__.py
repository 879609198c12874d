"""LLaMA checkpoints: their shapes, loading them, base models by source, and `kernels`, the fast paths."""
