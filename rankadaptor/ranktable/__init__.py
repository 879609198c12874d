"""The measured table of rank allocations: records for meta-learning, and searches replayed on it.

`meta_records` reads the table; `replay` is one block of it, on which `replayed_searches`, `cross_validation` and
`reliability` work; `replay_cache` keeps their results in the ledger.
"""
