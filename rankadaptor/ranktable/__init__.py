"""The measured table of rank allocations: records for meta-learning, and searches replayed on it."""
