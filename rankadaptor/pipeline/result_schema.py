"""What `result.json` holds: a stage, its result, and how it was made. Stages declare the fields of their results."""

from collections.abc import Mapping
from typing import Any

from rankadaptor.errors import Damaged

_FIELDS: dict[str, Mapping[str, type]] = {}  # of results, by stage


def declare(stage: str, fields: Mapping[str, type]) -> None:
    """Say which fields every result of a stage has, and of which type; int and float also mean each other's."""
    _FIELDS[stage] = dict(fields)


def check_result(content: Mapping[str, Any], stage: object) -> None:
    """Hold the content of a `result.json` against the schema.

    Args:
        content: What the file holds.
        stage: By the entry's spec. Of a stage that nothing declares, only the outer fields are looked at.

    Raises:
        Damaged: on a missing field or one of another type, or on the result of another stage.
    """
    if not isinstance(stage, str) or content.get("stage") != stage:
        raise Damaged(f"its result is of stage {content.get('stage')!r:.40}, its spec of {stage!r:.40}")
    for name in ("result", "provenance"):
        if not isinstance(content.get(name), dict):
            raise Damaged(f"its result.json holds no {name}")
    result = content["result"]
    if "diverged" in result:  # and nothing else was computed
        if not isinstance(result["diverged"], str):
            raise Damaged("its result diverged without a reason")
        return
    for name, kind in _FIELDS.get(stage, {}).items():
        if name not in result:
            raise Damaged(f"its result holds no {name}")
        kinds = (int, float) if kind in (int, float) else (kind,)
        if not isinstance(result[name], kinds) or isinstance(result[name], bool):
            raise Damaged(f"its result holds {name} that is no {kind.__name__}")
