"""The errors that a caller is meant to catch, everything else being a bug that keeps its traceback; and how a command
line tells of bad arguments."""

import argparse
from typing import NoReturn


class BadInput(ValueError):
    """What was given cannot be used. One line: what was wrong, the value, and the remedy.

    The command line prints the message alone and exits with status 2.
    """


class StageFailed(RuntimeError):
    """A stage has no result, and is not tried again: its row of a table says so.

    Attributes:
        kind: "diverged", or one of `failures.ATTEMPTS`.
        reason: What was wrong, and the remedy.
    """

    def __init__(self, kind: str, message: str):
        super().__init__(f"{kind}: {message}")
        self.kind, self.reason = kind, message


class RecoveryDiverged(StageFailed):
    """A recovery's loss or gradient became NaN or infinite, as it would on any machine: a search scores it lowest."""

    def __init__(self, message: str):
        super().__init__("diverged", message)


class NotInLedger(LookupError):
    """A result was asked for while nothing may be computed."""


class DamagedEntry(RuntimeError):
    """A ledger entry whose files do not match their recorded checksums."""


class ArgumentParser(argparse.ArgumentParser):
    """argparse, with one line an error, as everywhere."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")
