"""Selectors, and the two baselines that pool."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .common import Kept, cosine, select


def adaptive_pool(x: Tensor, k: int, *, grid: tuple[int, int], **_: Any) -> Kept:
    pooled = F.adaptive_avg_pool2d(x.T.reshape(1, -1, *grid), math.isqrt(k))[0].flatten(1).T
    return torch.arange(k, device=x.device), pooled


def resize(x: Tensor, k: int, *, grid: tuple[int, int], **_: Any) -> Kept:
    side = math.isqrt(k)
    small = F.interpolate(x.T.reshape(1, -1, *grid), (side, side), mode="bilinear", align_corners=False)
    return torch.arange(k, device=x.device), small[0].flatten(1).T


def random(x: Tensor, k: int, **_: Any) -> Kept:
    return select(x, torch.randperm(len(x), device=x.device)[:k])


def topk(x: Tensor, k: int, **_: Any) -> Kept:
    return select(x, x.norm(dim=-1).topk(k).indices)


def attention_topk(x: Tensor, k: int, *, importance: Tensor, **_: Any) -> Kept:
    return select(x, importance.topk(k).indices)


def max_min(distance: Tensor, k: int) -> Tensor:
    chosen = torch.empty(k, dtype=torch.long, device=distance.device)
    for step in range(k):
        if step == 0:
            nearest = torch.topk(distance, 2, dim=0, largest=False).values[1]
        else:  # the distances to all chosen so far are read again at each step
            nearest = distance.index_select(0, chosen[:step]).min(0).values
        chosen[step] = nearest.argmax()
    return chosen


def divprune(x: Tensor, k: int, **_: Any) -> Kept:
    return select(x, max_min(1 - cosine(x), k))


def determinantal(kernel: Tensor, k: int) -> Tensor:
    left, rows = kernel.diagonal().clone(), kernel.new_zeros(k, len(kernel))
    chosen = torch.empty(k, dtype=torch.long, device=kernel.device)
    for step in range(k):
        best = left.argmax()
        chosen[step] = best
        row = (kernel[best] - rows[:step, best] @ rows[:step]) / left[best].sqrt()
        rows[step] = row
        left -= row.square()
        left[best] = -torch.inf
    return chosen


def dpp(x: Tensor, k: int, **_: Any) -> Kept:
    return select(x, determinantal(cosine(x).fill_diagonal_(1), k))


def conditional_kernel(x: Tensor, text: Tensor) -> Tensor:
    relevance = (F.normalize(x, dim=-1) @ F.normalize(text, dim=-1).T).mean(-1)
    relevance = (relevance - relevance.min() + 1e-6) / (relevance.max() - relevance.min())
    return relevance[:, None] * cosine(x) * relevance


def cdpruner(x: Tensor, k: int, *, text: Tensor, **_: Any) -> Kept:
    return select(x, determinantal(conditional_kernel(x, text), k))


def dart(x: Tensor, k: int, *, text: Tensor, **_: Any) -> Kept:
    own = x.abs().sum(-1).topk(min(4, k)).indices.sort().values
    asked = text.abs().sum(-1).topk(min(4, len(text))).indices.sort().values
    pivots = torch.cat([x[own], text[asked]])
    free = torch.ones(len(x), dtype=torch.bool, device=x.device)
    free[own] = False
    chosen, (each, rest) = own.tolist(), divmod(k - len(own), len(pivots))
    for turn, pivot in enumerate(pivots):
        likeness = F.cosine_similarity(x, pivot[None], dim=-1).masked_fill(~free, torch.inf)
        taken = likeness.topk(each + (turn < rest), largest=False).indices
        free[taken] = False
        chosen += taken.tolist()
    return select(x, chosen)


def covering(table: Tensor, k: int, weight: Tensor | float = 1.0) -> Tensor:
    covered, taken = table.new_zeros(len(table)), table.new_zeros(table.shape[1])
    chosen = torch.empty(k, dtype=torch.long, device=table.device)
    for step in range(k):
        gain = (table - covered[:, None]).clamp(min=0).sum(0) * weight + taken
        chosen[step] = gain.argmax()
        taken[chosen[step]] = -torch.inf
        covered = torch.maximum(covered, table[:, chosen[step]])
    return chosen


def scope(x: Tensor, k: int, *, importance: Tensor, **_: Any) -> Kept:
    return select(x, covering(cosine(x), k, importance))


def multimodal_rows(x: Tensor, text: Tensor) -> Tensor:
    said = (F.normalize(text, dim=-1) @ F.normalize(x, dim=-1).T / 0.01).softmax(-1) / len(text)
    seen = 0.5 * (cosine(x) / 0.2).softmax(-1) / len(x)
    return torch.cat([said, seen])


def mmtok(x: Tensor, k: int, *, text: Tensor, **_: Any) -> Kept:
    return select(x, covering(multimodal_rows(x, text), k))


def half_rescaled(importance: Tensor) -> Tensor:
    return 0.5 * (importance - importance.min()) / (importance.max() - importance.min())


def marginal(c: Tensor, k: int, worth: Tensor) -> Tensor:
    chosen = [int(worth.argmax())]
    while len(chosen) < k:
        score = worth - 0.5 * c[chosen].max(0).values
        score[chosen] = -torch.inf
        chosen.append(int(score.argmax()))
    return torch.tensor(chosen)


def idpruner(x: Tensor, k: int, *, importance: Tensor, **_: Any) -> Kept:
    return select(x, marginal(cosine(x), k, half_rescaled(importance)))


def vispruner(x: Tensor, k: int, *, importance: Tensor, **_: Any) -> Kept:
    order = importance.argsort(descending=True)
    kept, left = order[: k // 2], order[k // 2 :]
    size, tokens = k - len(kept), F.normalize(x, dim=-1)
    while len(left) > size:
        a, b = left[0::2], left[1::2]
        repeats = (tokens[a] @ tokens[b].T).max(-1).values
        drop = min(8, len(left) - size, len(a))
        left = torch.cat([a[repeats.argsort(descending=True)[drop:]], b])
    return select(x, torch.cat([kept, left]))


def text_rater(x: Tensor, k: int, *, text: Tensor, **_: Any) -> Kept:
    logits = x @ text.T / math.sqrt(x.shape[1])
    rating = logits.softmax(1).mean(0)
    raters = rating >= rating.mean()
    return select(x, logits.softmax(0)[:, raters].mean(1).topk(k).indices)


def holov(x: Tensor, k: int, *, importance: Tensor, **_: Any) -> Kept:
    runs = importance.tensor_split(16)
    means = torch.stack([run.mean() for run in runs]).double()
    share = means / means.sum()
    quota = [min(math.floor(float(w) * k + 1e-9), len(run)) for w, run in zip(share, runs)]
    while sum(quota) < k:
        for j in share.argsort(descending=True, stable=True).tolist():
            if sum(quota) < k and quota[j] < len(runs[j]):
                quota[j] += 1
    chosen, first = [], 0
    for run, q in zip(runs, quota):
        chosen.append(first + run.topk(q).indices)
        first += len(run)
    return select(x, torch.cat(chosen))


def hiprune(
    x: Tensor, k: int, *, importance: Tensor, shallow_importance: Tensor, grid: tuple[int, int], **_: Any
) -> Kept:
    h, w = grid
    anchors = shallow_importance.topk(math.floor(k * 0.1 / 5 + 0.5)).indices.tolist()
    near: set[int] = set()
    for place in anchors:
        row, column = divmod(place, w)
        for r, c in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
            if 0 <= r < h and 0 <= c < w:
                near.add(r * w + c)
    around = sorted(near - set(anchors), key=lambda i: (-float(shallow_importance[i]), i))
    chosen = (anchors + around)[:k]
    others = importance.clone()
    others[chosen] = -torch.inf
    return select(x, chosen + others.topk(k - len(chosen)).indices.tolist())


def evs(x: Tensor, k: int, *, clip: tuple[int, int, int], **_: Any) -> Kept:
    frames = F.normalize(x, dim=-1).view(clip[0], -1, x.shape[1])
    moved = 1 - (frames[1:] * frames[:-1]).sum(-1)
    score = torch.cat([frames.new_full((frames.shape[1],), torch.inf), moved.flatten()])
    return select(x, score.argsort(descending=True, stable=True)[:k])
