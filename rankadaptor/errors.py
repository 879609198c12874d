"""The errors that a caller is meant to catch. Everything else is a bug and keeps its traceback."""


class BadInput(ValueError):
    """What was given cannot be used. One line: what was wrong, the value, and the remedy.

    The command line prints the message alone and exits with status 2.
    """


class RecoveryDiverged(RuntimeError):
    """A recovery's loss or gradient became NaN or infinite; the trial has no result."""


class NotInLedger(LookupError):
    """A result was asked for while nothing may be computed."""


class DamagedEntry(RuntimeError):
    """A ledger entry whose files do not match their recorded checksums."""
