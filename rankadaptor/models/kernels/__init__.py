"""Fast paths: each computes what a plain module computes, to rounding, and a test holds the two equal."""
