"""Errors that callers are meant to catch. Every other exception is a bug and keeps its traceback."""

import argparse
from typing import NoReturn


class BadInput(ValueError):
    """An input cannot be used. The message is one line: what is wrong, the value, and the remedy.

    The command line prints the message alone and exits with status 2.
    """


class StageFailed(RuntimeError):
    """A stage has no result and is not tried again; tables show this in place of its row.

    Attributes:
        kind: "diverged", or one of `failures.ATTEMPTS`.
        reason: What is wrong, and the remedy.
    """

    def __init__(self, kind: str, message: str):
        super().__init__(f"{kind}: {message}")
        self.kind, self.reason = kind, message


class RecoveryDiverged(StageFailed):
    """A recovery's loss or gradient became NaN or infinite, as it would on any machine: a search scores it lowest."""

    def __init__(self, message: str):
        super().__init__("diverged", message)


class NotInLedger(LookupError):
    """The ledger lacks a result, and computing it is not allowed."""


class DamagedEntry(RuntimeError):
    """The files of a ledger entry do not match their recorded checksums."""


class ArgumentParser(argparse.ArgumentParser):
    """`argparse.ArgumentParser` that reports an error in one line."""

    def error(self, message: str) -> NoReturn:
        """Print the message without the usage and exit with status 2."""
        self.exit(2, f"{self.prog}: {message}\n")
