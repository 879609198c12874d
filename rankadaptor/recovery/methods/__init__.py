"""Adapter methods, one file each: what a recovery attaches to a pruned model and trains. See `recovery.spec`."""
