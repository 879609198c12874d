"""Identifiers of the package are plain nouns: none of the riddling names that the style guide lists."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "rankadaptor"
RIDDLES = {"asked", "kept", "said", "flown", "lows", "of_lows", "is_worn", "one", "its", "found", "chosen",
           "such"}  # a leading underscore makes no other name
MODULES = {"forwards", "places", "own", "rows", "cores", "kept_replays", "instrument"}


def names_defined(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, name) of all that a module names: variables, parameters, attributes, functions, classes, imports."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.lineno, node.name
            case ast.Name(ctx=ast.Store()):
                yield node.lineno, node.id
            case ast.Attribute(ctx=ast.Store()):
                yield node.lineno, node.attr
            case ast.arg():
                yield node.lineno, node.arg
            case ast.alias(asname=str()):
                yield node.lineno, node.asname
            case ast.ExceptHandler(name=str()) | ast.MatchAs(name=str()) | ast.MatchStar(name=str()):
                yield node.lineno, node.name


def riddles(source: str) -> list[tuple[int, str]]:
    """(line, name) of the names to be replaced."""
    return sorted((line, name) for line, name in names_defined(ast.parse(source))
                  if name == "_less" or name.lstrip("_") in RIDDLES)


@pytest.mark.parametrize("source", [
    "found = 1", "for one in []: pass", "[one for one in []]", "lambda its: 0", "def said(): pass", "class kept: pass",
    "def f(*, chosen): pass", "self.kept = 1", "self._kept = 1", "import re as such", "with a() as found: pass",
    "if found := 1: pass", "(one, (asked, two)) = x", "try: pass\nexcept OSError as said: pass",
    "match x:\n case [1, *flown]: pass",
])
def test_every_way_to_name_something_is_seen(source):
    assert len(riddles(source)) >= 1


def test_strings_keywords_and_longer_names_are_left_alone():
    assert riddles("x = {'kept': f(kept=1)}; kept_units, foundation = units['found'], y.found") == []


def test_no_identifier_of_the_package_is_a_riddle():
    lines = [f"{path.relative_to(PACKAGE)}:{line} {name}" for path in sorted(PACKAGE.rglob("*.py"))
             for line, name in riddles(path.read_text())]
    assert not lines, f"{len(lines)} names to replace by the thing itself:\n" + "\n".join(lines)


def test_no_module_of_the_package_is_a_riddle():
    names = {path.stem for path in PACKAGE.rglob("*") if path.suffix == ".py" or path.is_dir()}
    assert not names & MODULES
