"""Stages as content-addressed steps: the ledger that keeps their results, and what runs them, here or elsewhere."""
