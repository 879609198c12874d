"""Fast paths. Each has a plain counterpart that it equals to rounding, one context manager or call that switches it on,
and a test of the equality."""
