"""What a stage computes, as plain data: frozen specs, canonical JSON, and the SHA-256 keys made from them.

A key is the SHA-256 of the canonical JSON of {stage, numerics version, spec, parent key, data revisions}. Nothing that
may differ between two machines (device, library versions, times, paths) is part of it. README, "Schemas", holds the
JSON forms.
"""

import dataclasses
import hashlib
import json
from typing import Any, Protocol


class Spec(Protocol):
    """What a stage computes: a frozen dataclass that knows the version of its stage's numerics."""

    @property
    def numerics_version(self) -> int:
        """Raised by whoever changes what the stage computes: old results then stop being found, without being lost."""


def later(default: Any, nested: bool = False) -> Any:
    """A field that specs got after results were made: it stays out of keys while it holds its default.

    Args:
        nested: Also where the spec is part of another one. The first such fields were not, and searches have them.
    """
    return dataclasses.field(default=default, metadata={"later": True, "nested": nested})


def canonical_json(value: Any) -> str:
    """JSON with sorted keys, no spaces and no NaN: equal values give equal text. Dataclasses become objects."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def stage_identity(stage: str, spec: Spec, parent: str, revisions: dict[str, str]) -> dict[str, Any]:
    """Everything that a stage's result is a function of, as JSON-able data; `identity_key` makes the key of it.

    Args:
        stage: Name of the stage, such as "prune".
        spec: The stage's frozen spec.
        parent: Key of the result this one is computed from; for a base model, the hash of its pinned
            identity; for a replay, the SHA-256 of its table.
        revisions: Pinned identities of the data read, such as {"benchmarks": "wheel:...#sha256"}.
    """
    return {
        "stage": stage,
        "numerics_version": spec.numerics_version,
        "spec": _spec_content(spec),
        "parent": parent,
        "revisions": revisions,
    }


def _spec_content(value: Any, inner: bool = False) -> Any:
    """`dataclasses.asdict`, less the later fields that hold their default."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        which = "nested" if inner else "later"
        set_ones = [one.name for one in dataclasses.fields(value)
                    if not (one.metadata.get(which) and getattr(value, one.name) == one.default)]
        return {name: _spec_content(getattr(value, name), True) for name in set_ones}
    if isinstance(value, list | tuple):
        return [_spec_content(one, True) for one in value]
    if isinstance(value, dict):
        return {name: _spec_content(one, True) for name, one in value.items()}
    return value


def identity_key(identity: dict[str, Any]) -> str:
    """The content address of a result: 64 hex digits, the SHA-256 of its identity's canonical JSON."""
    return sha256_text(canonical_json(identity))
