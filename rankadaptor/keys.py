"""What a stage computes, as plain data: frozen specs, canonical JSON, and the SHA-256 keys made from them.

A key is the SHA-256 of the canonical JSON of {stage, numerics version, spec, parent key, data revisions}. Nothing that
may differ between two machines (device, library versions, times, paths) is part of it.
"""

import dataclasses
import hashlib
import json
from typing import Any, Protocol


class Spec(Protocol):
    """What a stage computes: a frozen dataclass with the version of its stage's numerics."""

    @property
    def numerics_version(self) -> int:
        """Raise it when the numbers that the stage computes change: old results are then kept, but not read."""


def later(default: Any, nested: bool = False) -> Any:
    """A field that was added to a spec after results were made: it stays out of keys while it holds its default.

    Args:
        default: Value of the field in all results made before.
        nested: Also leave the field out where its spec is part of another spec. Fields of the first specs are not left
            out there, and the keys of searches contain them.
    """
    return dataclasses.field(default=default, metadata={"later": True, "nested": nested})


def canonical_json(value: Any) -> str:
    """JSON with sorted keys, no spaces and no NaN: equal values give equal text. Dataclasses become objects."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256_text(text: str) -> str:
    """SHA-256 of a text in UTF-8, as 64 hex digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def stage_identity(stage: str, spec: Spec, parent: str, revisions: dict[str, str]) -> dict[str, Any]:
    """Everything that determines a stage's result, as JSON-able data; `identity_key` makes the key of it.

    Args:
        stage: Name of the stage, such as "prune".
        spec: The stage's frozen spec.
        parent: Key of the result that this one is computed from; of a base model, the hash of its pinned identity; of
            a replay, the SHA-256 of its table.
        revisions: Pinned identities of the data that the stage reads, such as {"benchmarks": "wheel:...#sha256"}.
    """
    return {
        "stage": stage,
        "numerics_version": spec.numerics_version,
        "spec": _spec_content(spec),
        "parent": parent,
        "revisions": revisions,
    }


def _spec_content(value: Any, nested: bool = False) -> Any:
    """`dataclasses.asdict` without the later fields that hold their default."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        mark = "nested" if nested else "later"
        names = [field.name for field in dataclasses.fields(value)
                 if not (field.metadata.get(mark) and getattr(value, field.name) == field.default)]
        return {name: _spec_content(getattr(value, name), True) for name in names}
    if isinstance(value, list | tuple):
        return [_spec_content(item, True) for item in value]
    if isinstance(value, dict):
        return {name: _spec_content(item, True) for name, item in value.items()}
    return value


def identity_key(identity: dict[str, Any]) -> str:
    """The content address of a result: 64 hex digits, the SHA-256 of its identity's canonical JSON."""
    return sha256_text(canonical_json(identity))
