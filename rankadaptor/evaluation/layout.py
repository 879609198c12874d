"""Lays choices out as trees, so that tokens which several choices begin with are computed once.

A choice is a path from a tree's root, and a node holds tokens that all choices through it share. A token attends to
its own node up to itself and to the nodes above, so every log-probability is that of the choice alone. Trees follow one
another in a batch without padding. Attention alone divides them, into segments that are grouped by length. Long nodes
are several segments, each below the one before, since attention computes whole blocks of queries and keys, also where
causal order hides half of them.

Source: the tree mask of SpecInfer (Miao et al. 2024, section 4.2), over choices in place of drafts.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from rankadaptor.errors import BadInput

_TOKENS_PER_SHARED = 8  # a choice joins a tree if it shares at least one token in so many with it
_MIN_NODE_TOKENS = 4  # a shared node has at least so many tokens, since each node costs attention a segment

# (context, continuation), the context's tokens, the continuation's: what lm-eval's backends score.
TokenisedPair = tuple[tuple[str, str], list[int], list[int]]


class Limits(NamedTuple):
    """Sizes of batches, segments and groups, tuned to a device."""

    tokens_per_batch: int  # at most; a choice that is longer is a batch alone
    segment_tokens: int = 32  # at most
    # Segments of a group have at least this share of the longest one's tokens, and of its ancestors: the lower it is,
    # the fewer are the calls of attention, and the more padding is in each.
    min_length_share: float = 0.8


class SegmentGroup(NamedTuple):
    """Segments whose attention is one call. Numbers are places of tokens in the batch; short segments are padded."""

    queries: torch.Tensor  # (segments, queries)
    ancestors: torch.Tensor  # (segments, keys): tokens that every query sees, beside its own segment up to itself
    ancestor_counts: torch.Tensor  # (segments,): number of each segment's ancestors without padding


class Batch(NamedTuple):
    """Trees one after another. All tensors are int64."""

    tokens: torch.Tensor  # (tokens,)
    positions: torch.Tensor  # (tokens,)
    groups: tuple[SegmentGroup, ...]
    order: torch.Tensor  # (tokens,): index of each token among the queries of all groups
    predictors: torch.Tensor  # (predictors,): places of the tokens whose hidden states predict a target
    predictor_of_target: torch.Tensor  # (targets,): index into `predictors`
    targets: torch.Tensor  # (targets,): token that is scored
    choice_of_target: torch.Tensor  # (targets,): index of the choice that it belongs to


def lay_out(pairs: Sequence[TokenisedPair], max_length: int, limits: Limits) -> list[Batch]:
    """Batches that score every pair. They depend on no model, and serve all of one tokenizer and context length.

    Args:
        pairs: Choices, in any order.
        max_length: Tokens that the model reads; longer choices lose tokens on the left, as with lm-eval's own backend.
        limits: Of the device.

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
    pending: list[_Tree] = []
    for tree in trees:
        if pending and sum(other.size for other in pending) + tree.size > limits.tokens_per_batch:
            batches.append(_batch(pending, limits))
            pending = []
        pending.append(tree)
    return [*batches, _batch(pending, limits)] if pending else batches


@dataclass(eq=False)
class _Node:
    """Tokens `start` to `end` of a text. The parent holds those before `start`."""

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
    nodes: list[_Node]  # parents before their children
    size: int  # tokens
    ends: list[tuple[int, _Node, list[int]]] = field(default_factory=list)  # choice, last node, tokens to be scored


def _trees(pairs: Sequence[TokenisedPair], max_length: int, max_tokens: int) -> Iterator[_Tree]:
    """Sorts choices by their tokens, so that those with a common beginning are neighbours, and adds each to the last.

    Args:
        max_tokens: Of a tree, unless one choice alone has more.
    """
    wholes = [(context + continuation)[-(max_length + 1) :] for _, context, continuation in pairs]
    tree, path = _Tree([], 0), list[_Node]()
    for choice in sorted(range(len(pairs)), key=lambda choice: wholes[choice][:-1]):
        text = wholes[choice][:-1]
        shared = _shared_length(path[-1].text, text) if path else 0
        while path and shared < path[-1].end and shared - path[-1].start < _MIN_NODE_TOKENS:
            path.pop()
        start = min(shared, path[-1].end) if path else 0
        if not start or start * _TOKENS_PER_SHARED < len(text) or tree.size + len(text) - start > max_tokens:
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


def _shared_length(first: Sequence[int], second: Sequence[int]) -> int:
    """Number of tokens that two sequences share at their beginning."""
    length = min(len(first), len(second))
    if first[:length] == second[:length]:
        return length
    return next(place for place in range(length) if first[place] != second[place])


def _split(tree: _Tree, node: _Node, at: int) -> _Node:
    """The part of a node before `at`, as a new parent of the rest."""
    upper = _Node(node.text, node.start, at, node.parent)
    node.start, node.parent = at, upper
    tree.nodes.insert(tree.nodes.index(node), upper)
    return upper


def _batch(trees: Sequence[_Tree], limits: Limits) -> Batch:
    """One batch of trees."""
    tokens: list[int] = []
    positions: list[int] = []
    segments: list[_Segment] = []
    predictors: dict[int, int] = {}  # place in the batch -> index
    predictor_of_target, targets, choice_of_target = [], [], []
    for tree in trees:
        for node in tree.nodes:  # parents first
            node.place = len(tokens)
            tokens += node.text[node.start : node.end]
            positions += range(node.start, node.end)
            segments += _segments(node, limits.segment_tokens)
        for choice, end, scored in tree.ends:
            path = end.path()
            for depth, token in enumerate(scored, end.end - len(scored)):
                node = next(ancestor for ancestor in path if depth < ancestor.end)
                place = node.place + depth - node.start
                predictor_of_target.append(predictors.setdefault(place, len(predictors)))
                targets.append(token)
                choice_of_target.append(choice)
    groups, order = _stacked(_alike(segments, limits.min_length_share), len(tokens))
    return Batch(
        tokens=torch.tensor(tokens),
        positions=torch.tensor(positions),
        groups=groups,
        order=order,
        predictors=torch.tensor(list(predictors)),
        predictor_of_target=torch.tensor(predictor_of_target),
        targets=torch.tensor(targets),
        choice_of_target=torch.tensor(choice_of_target),
    )


class _Segment(NamedTuple):
    """Consecutive tokens of a batch, and the places of the tokens before them in their tree."""

    start: int
    length: int
    ancestors: list[int]


def _segments(node: _Node, max_tokens: int) -> Iterator[_Segment]:
    """A node as segments of at most so many tokens."""
    ancestors = [place for above in node.path()[:-1]
                 for place in range(above.place, above.place + above.end - above.start)]
    for start in range(0, node.end - node.start, max_tokens):
        length = min(max_tokens, node.end - node.start - start)
        yield _Segment(node.place + start, length, [*ancestors, *range(node.place, node.place + start)])


def _alike(segments: Sequence[_Segment], share: float) -> Iterator[list[_Segment]]:
    """Segments in groups of similar length and similar number of ancestors."""
    for group in _grouped(segments, lambda segment: len(segment.ancestors), share):
        yield from _grouped(group, lambda segment: segment.length, share)


def _grouped(segments: Sequence[_Segment], size: Callable[[_Segment], int], share: float) -> list[list[_Segment]]:
    """In groups whose sizes are at least that share of their largest, the largest first."""
    groups: list[list[_Segment]] = []
    for segment in sorted(segments, key=size, reverse=True):
        if groups and size(segment) >= share * size(groups[-1][0]):
            groups[-1].append(segment)
        else:
            groups.append([segment])
    return groups


def _stacked(
    groups: Iterable[Sequence[_Segment]], token_count: int
) -> tuple[tuple[SegmentGroup, ...], torch.Tensor]:
    """Groups as padded tensors, and `Batch.order`."""
    stacked, query_count = [], 0
    order = torch.empty(token_count, dtype=torch.int64)
    for group in groups:
        starts, lengths = (torch.tensor(numbers) for numbers in
                           zip(*((segment.start, segment.length) for segment in group), strict=True))
        steps = torch.arange(int(lengths.max()))
        queries = starts[:, None] + torch.minimum(steps, lengths[:, None] - 1)  # padded by the last token
        is_token = steps < lengths[:, None]
        order[queries[is_token]] = query_count + torch.arange(queries.numel()).view_as(queries)[is_token]
        counts = [len(segment.ancestors) for segment in group]
        ancestors = [segment.ancestors + [0] * (max(counts) - len(segment.ancestors)) for segment in group]
        stacked.append(SegmentGroup(queries, torch.tensor(ancestors, dtype=torch.int64), torch.tensor(counts)))
        query_count += queries.numel()
    return tuple(stacked), order
