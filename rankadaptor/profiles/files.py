"""A profile's YAML as plain data: of bounded size and depth, each key once, and numbers as they look.

PyYAML alone would make gigabytes of a few hundred bytes of aliases, take the later of two equal keys, and read
`steps: 0100` as 64.
"""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from rankadaptor.errors import BadInput, cut, shown

MOST_BYTES = 256 * 1024
_MOST_VALUES = 50_000  # with those of an alias as often as it is used
_DEEPEST = 32
_MERGE = "tag:yaml.org,2002:merge"
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_MISREAD = re.compile(r"[-+]?0[0-9_]+|[-+]?[0-9_]+(?::[0-9_.]+)+")  # octal, and to the base 60


def read_yaml(path: Path) -> Any:
    """Content of a YAML file.

    Raises:
        BadInput: if it cannot be read, is too large or too deep, or is not YAML of one document.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(MOST_BYTES + 1)
    except OSError as error:
        remedy = "check its name and its permissions"
        raise BadInput(f"cannot read {shown(str(path))} ({error.strerror}): {remedy}") from None
    if len(content) > MOST_BYTES:
        raise BadInput(f"{path.name} has more than {MOST_BYTES // 1024} KiB: a profile has a few")
    try:
        loader = yaml.SafeLoader(content.decode())
        if (node := loader.get_single_node()) is None:
            return None
        _Check(loader, path.name).measure(node)
        return loader.construct_document(node)
    except BadInput:
        raise
    except Exception as error:  # of whatever PyYAML raises, also where a tag does not fit its value
        raise BadInput(f"{path.name} is not YAML ({cut(' '.join(str(error).split()))}): mend it") from None


class _Check:
    """Refuses aliases that would make a small file large, cycles of them, keys that repeat, and misleading numbers."""

    def __init__(self, loader: yaml.SafeLoader, name: str):
        self._loader, self._name = loader, name
        self._measured: dict[int, tuple[int, int] | None] = {}  # by node; None while its parts are measured

    def measure(self, node: yaml.Node) -> tuple[int, int]:
        """Values in a node, those of an alias as often as it is used, and how deep they are. Raises BadInput on what
        is refused.
        """
        if id(node) in self._measured:
            if (known := self._measured[id(node)]) is None:
                raise BadInput(f"{self._name} has an alias within what it stands for: leave it out")
            return known
        self._measured[id(node)] = None
        values, depth = 1, 1
        for part in self._parts(node):
            values_of_part, depth_of_part = self.measure(part)
            values, depth = values + values_of_part, max(depth, 1 + depth_of_part)
            if values > _MOST_VALUES:
                raise BadInput(f"{self._name} has more than {_MOST_VALUES:,} values, its aliases read out: a profile"
                               " has some hundred")
            if depth > _DEEPEST:
                raise BadInput(f"{self._name} is nested more than {_DEEPEST} deep: a profile is not")
        self._measured[id(node)] = values, depth
        return values, depth

    def _parts(self, node: yaml.Node) -> list[yaml.Node]:
        if isinstance(node, yaml.MappingNode):
            keys = [self._loader.construct_object(key) for key, _ in node.value
                    if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE]
            if repeated := [key for key, count in Counter(keys).items() if count > 1]:
                raise BadInput(f"{self._name} has the key {shown(repeated[0])} twice in one mapping: leave one out")
            return [part for pair in node.value for part in pair]
        if isinstance(node, yaml.SequenceNode):
            return node.value
        if node.tag in _NUMBERS and _MISREAD.fullmatch(node.value):
            raise BadInput(f"{self._name} has the number {shown(node.value)}, which YAML reads to the base 8 or 60:"
                           " write it in plain decimals")
        return []
