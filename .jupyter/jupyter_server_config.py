"""Settings of `make lab` and `make explore`."""

from rankadaptor.reporting.lab import without_outputs

c.ContentsManager.pre_save_hook = without_outputs  # noqa: F821  (Jupyter defines c)
