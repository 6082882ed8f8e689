"""Methods that mix tokens."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .common import Kept, cosine, ordered


def visionzip(x: Tensor, k: int, *, importance: Tensor, keys: Tensor, **_: Any) -> Kept:
    count = 5 * k // 32
    dominant = importance.topk(k - count).indices
    rest = torch.ones(len(x), dtype=torch.bool, device=x.device)
    rest[dominant] = False
    others = rest.nonzero()[:, 0]
    centre = torch.arange(count, device=x.device) * len(others) // count
    away = torch.ones(len(others), dtype=torch.bool, device=x.device)
    away[centre] = False
    metric = F.normalize(keys[others], dim=-1)
    goes = (metric[away] @ metric[centre].T).argmax(-1)
    member = F.one_hot(goes, count).to(x.dtype)  # members, centres
    mean = member.T @ x[others[away]] / member.sum(0).clamp(min=1)[:, None]
    return ordered(x, torch.cat([dominant, others[centre]]), torch.cat([x[dominant], x[others[centre]] + mean]))


def prumerge(x: Tensor, k: int, *, importance: Tensor, keys: Tensor, **_: Any) -> Kept:
    kept = importance.topk(k - 1).indices
    metric, tokens = F.normalize(keys, dim=-1), []
    for place in kept.tolist():
        likeness = metric @ metric[place]
        likeness[place] = -torch.inf
        near = likeness.topk(min(32, len(x) - 1)).indices
        tokens.append(x[place] + (importance[near, None] * x[near]).sum(0))
    rest = torch.ones(len(x), dtype=torch.bool, device=x.device)
    rest[kept] = False
    others = rest.nonzero()[:, 0]
    last = (importance[others, None] * x[others]).sum(0)
    anchor = others[importance[others].argmax()]
    return ordered(x, torch.cat([kept, anchor[None]]), torch.stack([*tokens, last]))


def vscan(
    x: Tensor, k: int, *, importance: Tensor, shallow_importance: Tensor, grid: tuple[int, int], **_: Any
) -> Kept:
    h, w = grid
    number = torch.arange(len(x), device=x.device).view(h, w)
    ranked = []
    for top in range(0, h, 6):
        for left in range(0, w, 6):
            inside = number[top : top + 6, left : left + 6].flatten()
            ranked += list(enumerate(inside[shallow_importance[inside].argsort(descending=True)].tolist()))
    ranked.sort(key=lambda pair: (pair[0], -float(shallow_importance[pair[1]]), pair[1]))
    local = torch.tensor([index for _, index in ranked[: k // 2]], device=x.device)
    others = importance.clone()
    others[local] = -torch.inf
    kept = torch.cat([local, others.topk(k - len(local)).indices]).sort().values
    goes = F.normalize(x, dim=-1) @ F.normalize(x[kept], dim=-1).T
    goes[kept] = F.one_hot(torch.arange(k, device=x.device), k).to(x.dtype) * 2
    member = F.one_hot(goes.argmax(-1), k).to(x.dtype)
    return kept, member.T @ x / member.sum(0)[:, None]


def trim(x: Tensor, k: int, *, text: Tensor, **_: Any) -> Kept:
    score = F.cosine_similarity(x, text.mean(0, keepdim=True), dim=-1)
    kept = score.topk(k - 1).indices
    rest = torch.ones(len(x), dtype=torch.bool, device=x.device)
    rest[kept] = False
    others = rest.nonzero()[:, 0]
    anchor = others[score[others].argmax()]
    return ordered(x, torch.cat([kept, anchor[None]]), torch.cat([x[kept], x[others].mean(0, keepdim=True)]))


def tome(x: Tensor, k: int, **_: Any) -> Kept:
    tokens, size, place = x, torch.ones(len(x), 1, device=x.device), torch.arange(len(x), device=x.device)
    while len(tokens) > k:
        merges = min(len(tokens) - k, len(tokens) // 2)
        metric = F.normalize(tokens, dim=-1)
        best, goes = (metric[0::2] @ metric[1::2].T).max(-1)
        leave = best.argsort(descending=True, stable=True)[:merges]
        total, weight = tokens * size, size.clone()
        into = 2 * goes[leave] + 1
        total.index_add_(0, into, total[2 * leave].clone())
        weight.index_add_(0, into, size[2 * leave])
        stays = torch.ones(len(tokens), dtype=torch.bool, device=x.device)
        stays[2 * leave] = False
        tokens, size, place = (total / weight)[stays], weight[stays], place[stays]
    return place, tokens


def dpc_knn(x: Tensor, k: int, **_: Any) -> Kept:
    distance = torch.cdist(x, x) / math.sqrt(x.shape[1])
    density = (-distance.topk(5, largest=False).values.square().mean(-1)).exp()
    higher = density[None] > density[:, None]
    parent = distance.masked_fill(~higher, torch.inf).min(-1).values
    parent = torch.where(parent.isinf(), distance.max(), parent)
    centres = (parent * density).topk(k).indices.sort().values
    goes = distance[:, centres].argmin(-1)
    goes[centres] = torch.arange(k, device=x.device)
    member = F.one_hot(goes, k).to(x.dtype)
    return centres, member.T @ x / member.sum(0)[:, None]


def scissor(x: Tensor, k: int, **_: Any) -> Kept:
    c, n = cosine(x), len(x)
    above = torch.triu_indices(n, n, 1, device=x.device)
    order = c[above[0], above[1]].argsort(descending=True, stable=True)
    root = list(range(n))

    def find(i: int) -> int:
        while root[i] != i:
            root[i] = root[root[i]]
            i = root[i]
        return i

    left = n
    for i, j in zip(*(side[order].tolist() for side in above)):
        if left == k:
            break
        if (a := find(i)) != (b := find(j)):
            root[max(a, b)] = min(a, b)
            left -= 1
    groups = torch.tensor([find(i) for i in range(n)], device=x.device)
    member = F.one_hot(groups.unique(return_inverse=True)[1], k).to(x.dtype)
    mean = member.T @ x / member.sum(0)[:, None]
    likeness = F.normalize(x, dim=-1) @ F.normalize(mean, dim=-1).T
    anchor = torch.where(member.bool(), likeness, -torch.inf).argmax(0)
    order = anchor.argsort()
    mean, anchor, likeness = mean[order], anchor[order], likeness[:, order]
    joins = F.one_hot(likeness.argmax(-1), k).to(x.dtype)
    return anchor, (mean + joins.T @ x) / (1 + joins.sum(0))[:, None]
