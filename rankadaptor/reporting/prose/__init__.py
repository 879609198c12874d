"""README and docs, rendered from `docs/templates` so that every figure in them comes from a record.

`rendering` writes the documents, `reports` reads what their expressions ask for; `pages`, `tables`, `searches`,
`speeds` and `words` are the vocabulary of templates; `checking` finds figures that no record holds.
"""

from rankadaptor.reporting.prose.rendering import render_prose, rendered

__all__ = ["render_prose", "rendered"]
