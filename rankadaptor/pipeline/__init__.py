"""Stages as content-addressed steps: the ledger of their results, and the runner and pools that compute them."""
