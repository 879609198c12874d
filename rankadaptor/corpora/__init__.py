"""Text and questions: pinned downloads, the seven benchmarks, recovery rows, calibration and perplexity text."""
