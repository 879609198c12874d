"""What models are trained and scored on: benchmarks, instruction rows, plain text, and the sources of all three."""
