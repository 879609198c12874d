"""The search's page: what a measurement is worth, what predictors predict, and what searches find, from replays.

`page` has what notebook 06 shows, `jobs` the searches that are replayed, `predictions`, `comparisons` and
`convergence` what is computed from the replays, `tables` and `figures` how that looks, `writing` the files.
"""

from rankadaptor.reporting.search_page.convergence import convergence_table
from rankadaptor.reporting.search_page.page import SearchPage, search_page
from rankadaptor.reporting.search_page.tables import predictor_table

__all__ = ["SearchPage", "convergence_table", "predictor_table", "search_page"]
