"""Traces of searches: finished rounds beside the entries of a ledger, one file a round, each sealed.

A round's seal is made of its content, the search's key, its number and the seal of the round before it: a round that
was edited, exchanged or taken away is noticed, and it and all later ones are set aside. The search then goes on from
the rounds before; the recoveries of those after are in the ledger.

Earlier versions sealed no rounds. Such a round is used only at the beginning of a trace, and where the ledger's own
results confirm it.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rankadaptor.errors import BadInput, Damaged
from rankadaptor.files import write_atomically
from rankadaptor.keys import identity_key
from rankadaptor.pipeline.ledger import SEARCHES, Ledger
from rankadaptor.pipeline.ledger_files import set_aside, writing_into
from rankadaptor.sealed import (
    check_seal,
    json_text,
    kind_of,
    names_in,
    read_object,
    read_with_seal,
    seal_of,
    write_sealed,
)
from rankadaptor.search.rounds import Round

_SPEC = "spec.json"
_FIELDS = {"number", "proposals", "predictions", "scores", "gap"}  # of `Round.to_json`


class Trace:
    """The finished rounds of one search.

    Attributes:
        fault: What was wrong with the first file that `read` did not use; empty where it used all of them.
    """

    def __init__(self, ledger: Ledger, key: str):
        self._ledger, self._key = ledger, key
        self._folder = ledger.folder / SEARCHES / key
        self._seals: list[str] = []  # of the rounds that were read or appended
        self._is_sealed = False  # whether the last round that was read has its seal in the file
        self.fault = ""

    def read(self, doubt: Callable[[dict[str, Any]], str]) -> list[dict[str, Any]]:
        """Rounds in order, up to the first that is missing or not as it was written; that and later ones are set aside.

        Args:
            doubt: Says why a round without a seal is not believed; empty if the ledger's results confirm it.

        Raises:
            BadInput: if the system cannot read a file of it, for example without the rights.
        """
        self._seals, self._is_sealed, self.fault = [], False, ""
        rounds: list[dict[str, Any]] = []
        if (kind := kind_of(self._folder)) not in ("", "a folder"):
            self._set_aside(self._folder, f"it is {kind}, not a folder")
        try:
            has_own_spec = self._check_spec()
            numbers = self._numbers()
            while (number := len(rounds)) <= max(numbers, default=-1):
                path = self._round_path(number)
                try:
                    rounds.append(self._read_round(path, number, has_own_spec, doubt))
                except Damaged as damage:
                    self._set_aside(path, str(damage))
                    for later in map(self._round_path, [other for other in numbers if other > number]):
                        self._set_aside(later, f"{later.name} rests on {path.name}")
                    break
        except OSError as error:
            raise BadInput(f"search {self._key[:12]}: a file of {self._folder} cannot be read ({error.strerror}): mend"
                           " its rights, or remove it") from None
        return rounds

    def append(self, identity: dict[str, Any], content: dict[str, Any]) -> None:
        """Write the next round; the search's identity stands beside the rounds as `spec.json`.

        Raises:
            BadInput: if the folder cannot be written or is full, or the round holds a number that is not finite.
        """
        place = self._place(len(self._seals))
        try:
            seal = seal_of(content, place)
        except ValueError:
            raise BadInput(f"round {len(self._seals)} of search {self._key[:12]} holds a number that is not finite:"
                           " choose another predictor, or other settings of the search") from None
        with writing_into(self._ledger.folder):
            if kind_of(self._folder / _SPEC) != "a file":
                write_atomically(self._folder / _SPEC, json_text(identity))
            write_sealed(self._round_path(len(self._seals)), content, place)
        self._seals.append(seal)

    def _check_spec(self) -> bool:
        """Whether the folder's `spec.json`, if there is one, is that of the key; it is set aside where it is not."""
        path = self._folder / _SPEC
        if not kind_of(path):
            return True
        try:
            if identity_key(read_object(path)) == self._key:
                return True
            damage = f"its {_SPEC} is that of another search"
        except (Damaged, ValueError, RecursionError) as error:
            damage = str(error) if isinstance(error, Damaged) else f"{_SPEC} has no key"
        self._set_aside(path, damage)
        return False

    def _read_round(
        self, path: Path, number: int, has_own_spec: bool, doubt: Callable[[dict[str, Any]], str]
    ) -> dict[str, Any]:
        content, seal = read_with_seal(path)
        place = self._place(number)
        if seal is not None:
            check_seal(path.name, content, seal, place)
        else:
            if self._is_sealed:
                raise Damaged(f"{path.name} has no seal, the round before it has one")
            check_round(content, number)
            if not has_own_spec:
                raise Damaged(f"{path.name} has no seal, and its search no {_SPEC}")
            if why := doubt(content):
                raise Damaged(f"{path.name} has no seal, and {why}")
        self._is_sealed = seal is not None
        self._seals.append(seal_of(content, place))
        return content

    def _place(self, number: int) -> dict[str, Any]:
        return {"search": self._key, "number": number, "before": self._seals[number - 1] if number else ""}

    def _round_path(self, number: int) -> Path:
        return self._folder / f"round-{number:03d}.json"

    def _numbers(self) -> list[int]:
        """Of the rounds that there are files of."""
        digits = [name[6:-5] for name in names_in(self._folder) if name.startswith("round-") and name.endswith(".json")]
        return sorted(int(text) for text in digits if text.isdecimal() and f"{int(text):03d}" == text)

    def _set_aside(self, path: Path, damage: str) -> None:
        damage = f"search {self._key[:12]}: {damage}"
        self.fault = self.fault or damage
        if kind_of(path):
            set_aside(self._ledger.folder, path, damage, then="")


def check_round(content: dict[str, Any], number: int) -> None:
    """Hold a round that has no seal against itself: fields, types, lengths, and the gap that follows from the others.

    Raises:
        Damaged: if it cannot be what `Round.to_json` made.
    """
    name = f"round-{number:03d}.json"
    if content.keys() != _FIELDS or content["number"] != number:
        raise Damaged(f"{name} is no round {number}")
    proposals, scores = content["proposals"], content["scores"]
    are_allocations = isinstance(proposals, list) and all(
        isinstance(ranks, list) and all(type(rank) is int for rank in ranks) for ranks in proposals)
    are_scores = isinstance(scores, list) and all(
        isinstance(by_task, dict) and by_task and all(map(_is_number, by_task.values())) for by_task in scores)
    if not (are_allocations and are_scores and 0 < len(proposals) == len(scores)):
        raise Damaged(f"{name} holds other proposals or scores than a round does")
    predictions, gap = content["predictions"], content["gap"]
    if predictions is None and gap is None:
        return
    are_predictions = isinstance(predictions, list) and all(map(_is_number, predictions))
    if not (are_predictions and len(predictions) == len(proposals) and _is_number(gap)):
        raise Damaged(f"{name} holds other predictions than a round does")
    if not math.isclose(gap, Round.from_json(content).gap or 0.0, rel_tol=1e-9, abs_tol=1e-12):
        raise Damaged(f"{name}: its gap does not follow from predictions and scores")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
