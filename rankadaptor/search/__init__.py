"""The paper's method (Section 3): a performance model and a search that it guides, over any objective.

`performance_model` is Section 3.2; `loop`, `guided` and `convergence` are the three phases of Section 3.3. `rivals` and
`predictors` are the registries of what the method is compared with.
"""
