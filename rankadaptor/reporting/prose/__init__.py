"""README and docs, rendered from `docs/templates` so that every figure in them comes from a record.

`rendering` writes the documents, `reports` reads what their expressions ask for, `tables`, `searches` and `speeds` are
the vocabulary of templates, `words` says counts and intervals as sentences do, `checking` finds figures that no record
holds.
"""

from rankadaptor.reporting.prose.rendering import render_prose, rendered

__all__ = ["render_prose", "rendered"]
