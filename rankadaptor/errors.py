"""The errors that a caller is meant to catch, everything else being a bug that keeps its traceback; and how a command
line tells of bad arguments."""

import argparse
from typing import NoReturn


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


class ArgumentParser(argparse.ArgumentParser):
    """argparse, with one line an error, as everywhere."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")
