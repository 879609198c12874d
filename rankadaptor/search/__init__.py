"""The paper's method: a performance model and a search that it guides, over any objective of rank allocations."""
