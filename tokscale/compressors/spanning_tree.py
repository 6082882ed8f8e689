"""Connected components of the pairs most alike: a maximum spanning tree without its weakest edges.

Pairs equally alike go in order (i, j), i < j, so that no two weigh the same and the tree is one: both ways find it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .rules import order


def components(likeness: Tensor, k: int) -> Tensor:
    """Return (b, n): the component, 0 to k - 1, of each token when the pairs most alike are joined until k are left.

    Args:
        likeness: (b, n, n), symmetric, finite; pairs equally alike go in order (i, j), i < j.

    Cost: n^2 a sample, in n steps (Prim); on a GPU and compiled n^2 log n in log n steps (Boruvka), where steps cost
    most, and 10 bytes a pair beside the likeness.
    """
    if likeness.device.type == "cpu" and not torch.compiler.is_compiling():
        return by_tokens(likeness, k)
    return by_rounds(likeness, k)


def by_tokens(likeness: Tensor, k: int) -> Tensor:
    """`components`: the tree grows by one token at a time, over the best pair that leaves it."""
    b, n, _ = likeness.shape
    sample, index = torch.arange(b, device=likeness.device), torch.arange(n, device=likeness.device)
    best = likeness.new_full((b, n), -torch.inf)  # of the pairs with the tree; least inside it
    pair = index.new_full((b, n), n * n)  # the number of that pair, i n + j
    outside = torch.ones(b, n, dtype=torch.bool, device=likeness.device)
    vertex = index.new_zeros(b)  # the first one
    vertices, lengths, pairs = [vertex], [], []
    for _ in range(n - 1):
        outside[sample, vertex] = False
        best[sample, vertex] = -torch.inf
        row, own = likeness[sample, vertex], vertex.unsqueeze(1)
        number = torch.minimum(own, index) * n + torch.maximum(own, index)
        better = ((row > best) | ((row == best) & (number < pair))) & outside
        best, pair = torch.where(better, row, best), torch.where(better, number, pair)
        length = best.amax(1)
        vertex = pair.masked_fill(best < length.unsqueeze(1), n * n).argmin(1)
        vertices.append(vertex)
        lengths.append(length)
        pairs.append(pair[sample, vertex])
    if not lengths:
        return torch.zeros(b, n, dtype=torch.int64, device=likeness.device)
    # The tree leaves a component only when all of it is inside, so a component is a run between two of the cut edges.
    length, number, vertex = torch.stack(lengths, 1), torch.stack(pairs, 1), torch.stack(vertices, 1)
    by_pair = number.argsort(dim=1, stable=True)
    by_length = by_pair.gather(1, order(length.gather(1, by_pair)))
    cut = torch.zeros(b, n, dtype=torch.int64, device=likeness.device)
    cut.scatter_(1, 1 + by_length[:, n - k :], 1)  # the last k - 1 of n - 1 edges
    return torch.empty_like(cut).scatter_(1, vertex, cut.cumsum(1))


def by_rounds(likeness: Tensor, k: int) -> Tensor:
    """`components`: in each round every component joins the one to which its best pair leads."""
    b, n, _ = likeness.shape
    index = torch.arange(n, device=likeness.device)
    single = index.expand(b, n)
    number = torch.minimum(index[:, None], index) * n + torch.maximum(index[:, None], index)
    number = number.to(torch.int32) if n * n < 2**31 else number
    label, numbers, lengths = single, [], []
    for _ in range((n - 1).bit_length()):
        leaving = likeness.masked_fill(label[:, :, None] == label[:, None, :], -torch.inf)
        length = leaving.amax(2)
        pair = number.masked_fill(leaving < length[..., None], n * n).amin(2).long()
        label, chosen = joined(label, single, pair // n + pair % n - index, length, pair)
        numbers.append(pair.masked_fill(~chosen, n * n))
        lengths.append(length)
    if not numbers:
        return torch.zeros_like(single)
    pair, turn = torch.cat(numbers, 1).sort(dim=1, stable=True)  # a pair that both its ends chose comes twice
    again = torch.cat([torch.zeros_like(pair[:, :1], dtype=torch.bool), pair[:, 1:] == pair[:, :-1]], 1)
    length = torch.cat(lengths, 1).gather(1, turn).masked_fill(again | (pair == n * n), -torch.inf)
    kept = pair.gather(1, order(length)[:, : n - k])  # of n - 1 edges all but the last k - 1
    ends, other = torch.cat([kept // n, kept % n], 1), torch.cat([kept % n, kept // n], 1)
    rank = torch.arange(n - k, device=likeness.device).repeat(2).expand(b, -1)
    label = single
    for _ in range((n - 1).bit_length()):
        apart = label.gather(1, ends) != label.gather(1, other)
        label, _ = joined(label, ends, other, torch.zeros_like(rank).float().masked_fill(~apart, -torch.inf), rank)
    return (label == single).cumsum(1).gather(1, label) - 1


def joined(label: Tensor, start: Tensor, end: Tensor, length: Tensor, rank: Tensor) -> tuple[Tensor, Tensor]:
    """(label (b, n) after every component took its best edge, which edges were taken).

    Args:
        label: (b, n), the component of each token, by the number of one of its tokens.
        start, end, length, rank: (b, e) edges that leave `start`: the longest is best, the lower rank of equal ones; a
            length of -inf: no edge.
    """
    b, n = label.shape
    own = label.gather(1, start)
    longest = length.new_full((b, n), -torch.inf).scatter_reduce(1, own, length, "amax")
    good = (length == longest.gather(1, own)) & (length != -torch.inf)
    last = torch.iinfo(rank.dtype).max
    rank = rank.masked_fill(~good, last)
    taken = good & (rank == rank.new_full((b, n), last).scatter_reduce(1, own, rank, "amin").gather(1, own))
    index = torch.arange(n, device=label.device).expand(b, n)
    parent = torch.cat([index, index[:, :1]], 1)  # one place more, for edges that are not taken
    parent = parent.scatter(1, own.masked_fill(~taken, n), label.gather(1, end.masked_fill(~taken, 0)))[:, :n]
    mutual = (parent.gather(1, parent) == index) & (index < parent)  # two that chose one edge: the lower is the root
    parent = torch.where(mutual, index, parent)
    for _ in range((n - 1).bit_length()):
        parent = parent.gather(1, parent)
    return parent.gather(1, label), taken
