"""Laying out choices so that what they begin with alike is computed once.

Choices become trees: a choice is a path from a root, and a node holds tokens that all choices through it have in
common. A token sees its own node up to itself and the nodes above, so every log-probability is the one that the choice
alone would have. Trees follow one another without padding; attention alone takes them apart, into segments whose
lengths are alike. Nodes longer than a few dozen tokens count as several, one above the other, since attention computes
whole blocks of queries and keys, also where causal order hides half of them.

Source: the tree mask of SpecInfer (Miao et al. 2024, section 4.2), over choices in place of drafts.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from rankadaptor.errors import BadInput

_COMMON = 8  # a choice joins a tree if they share at least one token in so many, ...
_WORTH_IT = 4  # ... and a node of its own needs as many: each costs attention a segment

# (context, continuation), the context's tokens, the continuation's: what lm-eval's backends score.
TokenisedPair = tuple[tuple[str, str], list[int], list[int]]


class Limits(NamedTuple):
    """How a device likes its batches."""

    tokens_per_batch: int  # a choice that is longer goes alone
    segment_tokens: int = 32  # of a segment at most
    # Segments whose attention is one call have at least this share of the longest one's tokens, own and above: the less
    # it is, the fewer calls, and the more is filled up in them.
    alike_share: float = 0.8


class Part(NamedTuple):
    """Segments whose attention is one call. Numbers are places in the batch; what short segments lack is filled up."""

    queries: torch.Tensor  # (segments, queries)
    above: torch.Tensor  # (segments, keys): tokens that every query of a segment sees, beside its own up to itself
    above_lengths: torch.Tensor  # (segments,): how many of them a segment has


class Batch(NamedTuple):
    """Trees one after another; every tensor holds whole numbers."""

    tokens: torch.Tensor  # (tokens,)
    positions: torch.Tensor  # (tokens,)
    parts: tuple[Part, ...]
    order: torch.Tensor  # (tokens,): place of each token among the queries of all parts
    read: torch.Tensor  # (places,): tokens whose states something is predicted from
    of_place: torch.Tensor  # (targets,): which of those places
    targets: torch.Tensor  # (targets,): token that is scored there
    choices: torch.Tensor  # (targets,): whose it is


def lay_out(pairs: Sequence[TokenisedPair], max_length: int, limits: Limits) -> list[Batch]:
    """Batches that score every pair. They depend on no model, and serve all of one tokenizer and context length.

    Args:
        pairs: Choices, in any order.
        max_length: Tokens that the model reads; longer choices lose tokens on the left, as with lm-eval's own backend.

    Raises:
        BadInput: on a choice without a context or a continuation, or whose continuation alone is too long.
    """
    for _, context, continuation in pairs:
        if not (context and 0 < len(continuation) <= max_length):
            raise BadInput(f"a choice has {len(context)} tokens of context and {len(continuation)} of continuation:"
                           f" give at least one of both, and at most {max_length}, which the model reads")
    trees = sorted(_trees(pairs, max_length, limits.tokens_per_batch),
                   key=lambda tree: (-tree.nodes[0].end, -tree.size))
    batches: list[Batch] = []
    held: list[_Tree] = []
    for tree in trees:
        if held and sum(one.size for one in held) + tree.size > limits.tokens_per_batch:
            batches.append(_batch(held, limits))
            held = []
        held.append(tree)
    return [*batches, _batch(held, limits)] if held else batches


@dataclass(eq=False)
class _Node:
    """Tokens `start` to `end` of a text, which go on from its parent's."""

    text: list[int]
    start: int
    end: int
    parent: "_Node | None"
    place: int = 0  # of its first token in a batch

    def path(self) -> list["_Node"]:
        """From the root to this node."""
        return [*self.parent.path(), self] if self.parent else [self]


@dataclass
class _Tree:
    nodes: list[_Node]  # the root first
    size: int  # tokens
    ends: list[tuple[int, _Node, list[int]]] = field(default_factory=list)  # choice, last node, tokens to be scored


def _trees(pairs: Sequence[TokenisedPair], max_length: int, most: int) -> Iterator[_Tree]:
    """Choices in the order of their tokens, so that those that begin alike are neighbours, each grown onto the last."""
    wholes = [(context + continuation)[-(max_length + 1) :] for _, context, continuation in pairs]
    tree, path = _Tree([], 0), list[_Node]()
    for choice in sorted(range(len(pairs)), key=lambda choice: wholes[choice][:-1]):
        text = wholes[choice][:-1]
        shared = _shared(path[-1].text, text) if path else 0
        while path and shared < path[-1].end and shared - path[-1].start < _WORTH_IT:
            path.pop()
        start = min(shared, path[-1].end) if path else 0
        if not start or start * _COMMON < len(text) or tree.size + len(text) - start > most:
            if tree.nodes:
                yield tree
            tree, path, start = _Tree([], 0), [], 0
        elif start < path[-1].end:
            path[-1] = _split(tree, path[-1], start)
        if start < len(text):
            path.append(_Node(text, start, len(text), path[-1] if path else None))
            tree.nodes.append(path[-1])
            tree.size += len(text) - start
        tree.ends.append((choice, path[-1], wholes[choice][-len(pairs[choice][2]) :]))
    if tree.nodes:
        yield tree


def _shared(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two sequences begin with alike."""
    length = min(len(first), len(second))
    if first[:length] == second[:length]:
        return length
    return next(place for place in range(length) if first[place] != second[place])


def _split(tree: _Tree, node: _Node, at: int) -> _Node:
    """The upper part of a node, as a node of its own that the rest goes on from."""
    upper = _Node(node.text, node.start, at, node.parent)
    node.start, node.parent = at, upper
    tree.nodes.insert(tree.nodes.index(node), upper)
    return upper


def _batch(trees: Sequence[_Tree], limits: Limits) -> Batch:
    tokens: list[int] = []
    positions: list[int] = []
    segments: list[_Segment] = []
    places: dict[int, int] = {}
    of_place, targets, choices = [], [], []
    for tree in trees:
        for node in tree.nodes:  # parents first
            node.place = len(tokens)
            tokens += node.text[node.start : node.end]
            positions += range(node.start, node.end)
            segments += _segments(node, limits.segment_tokens)
        for choice, end, scored in tree.ends:
            path = end.path()
            for depth, token in enumerate(scored, end.end - len(scored)):
                node = next(one for one in path if depth < one.end)
                of_place.append(places.setdefault(node.place + depth - node.start, len(places)))
                targets.append(token)
                choices.append(choice)
    parts, order = _parts(_alike(segments, limits.alike_share), len(tokens))
    return Batch(torch.tensor(tokens), torch.tensor(positions), parts, order, torch.tensor(list(places)),
                 torch.tensor(of_place), torch.tensor(targets), torch.tensor(choices))


class _Segment(NamedTuple):
    """Tokens that follow one another, and the places of those that they go on from."""

    start: int
    length: int
    above: list[int]


def _segments(node: _Node, most: int) -> Iterator[_Segment]:
    above = [place for one in node.path()[:-1] for place in range(one.place, one.place + one.end - one.start)]
    for start in range(0, node.end - node.start, most):
        length = min(most, node.end - node.start - start)
        yield _Segment(node.place + start, length, [*above, *range(node.place, node.place + start)])


def _alike(segments: Sequence[_Segment], share: float) -> Iterator[list[_Segment]]:
    """Segments in groups whose lengths, and the lengths above, are alike."""
    for group in _grouped(segments, lambda one: len(one.above), share):
        yield from _grouped(group, lambda one: one.length, share)


def _grouped(segments: Sequence[_Segment], size: Callable[[_Segment], int], share: float) -> list[list[_Segment]]:
    """In groups whose sizes are alike, the longest first."""
    groups: list[list[_Segment]] = []
    for one in sorted(segments, key=size, reverse=True):
        if groups and size(one) >= share * size(groups[-1][0]):
            groups[-1].append(one)
        else:
            groups.append([one])
    return groups


def _parts(groups: Iterable[Sequence[_Segment]], tokens: int) -> tuple[tuple[Part, ...], torch.Tensor]:
    parts, before = [], 0
    order = torch.empty(tokens, dtype=torch.int64)
    for group in groups:
        starts, lengths = (torch.tensor(numbers) for numbers in zip(*(one[:2] for one in group), strict=True))
        steps = torch.arange(int(lengths.max()))
        queries = starts[:, None] + torch.minimum(steps, lengths[:, None] - 1)
        own = steps < lengths[:, None]
        order[queries[own]] = before + torch.arange(queries.numel()).view_as(queries)[own]
        most = max(len(one.above) for one in group)
        above = torch.tensor([one.above + [0] * (most - len(one.above)) for one in group], dtype=torch.int64)
        parts.append(Part(queries, above, torch.tensor([len(one.above) for one in group])))
        before += queries.numel()
    return tuple(parts), order
