"""The package stays in pieces that can be read: sizes, docstrings, no circles."""

import ast
import functools
import re
from collections import defaultdict
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

PACKAGE = Path(__file__).parents[1] / "rankadaptor"
MOST_LINES = {"function": 60, "class": 160, "module": 400}
Function = ast.FunctionDef | ast.AsyncFunctionDef


@functools.cache
def modules() -> dict[str, ast.Module]:
    """The package's modules, parsed, by their paths in it."""
    return {str(path.relative_to(PACKAGE)): ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}


def lines_of(node: Function | ast.ClassDef) -> int:
    """Decorators included."""
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    return node.end_lineno - first + 1


def sizes(kind: str) -> Iterator[tuple[str, int]]:
    """(place, lines) of every function, class or module."""
    for path, tree in modules().items():
        if kind == "module":
            yield path, len((PACKAGE / path).read_text().splitlines())
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef if kind == "class" else Function):
                yield f"{path}:{node.lineno} {node.name}", lines_of(node)


@pytest.mark.parametrize("kind", MOST_LINES)
def test_nothing_is_longer_than_can_be_read(kind):
    longer = [f"{place}: {lines} lines" for place, lines in sizes(kind) if lines > MOST_LINES[kind]]
    assert not longer, f"a {kind} has at most {MOST_LINES[kind]} lines:\n" + "\n".join(longer)


def documented_methods() -> dict[str, set[str]]:
    """Class -> methods with a docstring, those of its bases in the package included."""
    own, bases = defaultdict(set), defaultdict(list)
    for tree in modules().values():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                bases[node.name] += [base.id for base in node.bases if isinstance(base, ast.Name)]
                own[node.name] |= {method.name for method in node.body
                                   if isinstance(method, Function) and ast.get_docstring(method)}

    def inherited(name: str) -> set[str]:
        return own.get(name, set()).union(*map(inherited, bases.get(name, [])))

    return {name: inherited(name) for name in list(own)}


def undocumented() -> Iterator[str]:
    """Public functions and classes of modules, and public methods, without a docstring of theirs or of a base."""
    documented = documented_methods()
    for path, tree in modules().items():
        for node in tree.body:
            if not isinstance(node, Function | ast.ClassDef) or node.name.startswith("_"):
                continue
            if ast.get_docstring(node) is None:
                yield f"{path}:{node.lineno} {node.name}"
            if isinstance(node, ast.ClassDef):
                yield from (f"{path}:{method.lineno} {node.name}.{method.name}" for method in node.body
                            if isinstance(method, Function) and not method.name.startswith("_")
                            and method.name not in documented[node.name])


def test_everything_public_has_a_docstring():
    places = list(undocumented())
    assert not places, f"{len(places)} without a docstring:\n" + "\n".join(places)


def test_no_module_imports_itself_by_way_of_others():
    """Imports within functions count, those of type checking do not. `make lint` checks the floors."""
    graph = grimp.build_graph("rankadaptor", exclude_type_checking_imports=True, cache_dir=None)
    TopologicalSorter({name: graph.find_modules_directly_imported_by(name) for name in graph.modules}).prepare()


def test_names_of_tests_are_short():
    """A property in under 60 characters."""
    longer = [f"{path.name}: {node.name}" for path in sorted(Path(__file__).parent.rglob("test_*.py"))
              for node in ast.parse(path.read_text()).body
              if isinstance(node, Function) and node.name.startswith("test_") and len(node.name) >= 60]
    assert not longer, "\n".join(longer)


def test_readme_is_short():
    assert len((PACKAGE.parent / "README.md").read_text().splitlines()) <= 200


def test_readme_and_docs_link_to_files_that_are_there():
    for page in (PACKAGE.parent / "README.md", *(PACKAGE.parent / "docs").glob("*.md")):
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"
