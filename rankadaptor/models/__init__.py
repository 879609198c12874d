"""LLaMA checkpoints: their shapes, loading them, base models by source, and fast kernels in place of plain ones."""
