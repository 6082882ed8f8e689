"""The merging methods as their formulas read: one sample at a time, one token at a time."""

from __future__ import annotations

import math

import torch
from torch import Tensor

Result = tuple[list[int], Tensor]  # positions, tokens


def cos(u: Tensor, v: Tensor) -> float:
    """Cosine of two tokens; 1 where they differ by less than 1e-6, 1 between two zero ones, 0 from zero to others."""
    a, b = float(u.norm()), float(v.norm())
    if a <= 1e-12 or b <= 1e-12:
        return float(a <= 1e-12 and b <= 1e-12)
    c = float(u @ v) / (a * b)
    return 1.0 if 1 - c < 1e-6 else c


def top(scores: list[float], m: int, among: list[int] | None = None) -> list[int]:
    """The m largest, largest first, equal ones to the lower index."""
    among = list(range(len(scores))) if among is None else among
    return sorted(among, key=lambda i: (-scores[i], i))[:m]


def best(scores: list[float]) -> int:
    return scores.index(max(scores))


def ordered(outputs: dict[int, Tensor]) -> Result:
    positions = sorted(outputs)
    return positions, torch.stack([outputs[i] for i in positions])


def visionzip(x: Tensor, k: int, a: Tensor, keys: Tensor, contextual: int, merge: str) -> Result:
    n = len(x)
    dominant = top(a.tolist(), k - contextual)
    rest = [i for i in range(n) if i not in dominant]
    centres = [rest[i * len(rest) // contextual] for i in range(contextual)]
    joined: dict[int, list[int]] = {c: [] for c in centres}
    for i in rest:
        if centres and i not in centres:
            joined[centres[best([cos(keys[i], keys[c]) for c in centres])]].append(i)
    outputs = {i: x[i] for i in dominant}
    for c, group in joined.items():
        outputs[c] = x[c]
        if group:
            outputs[c] = x[c] + x[group].mean(0)
            if merge == "mean":
                outputs[c] = outputs[c] / 2
    return ordered(outputs)


def prumerge(x: Tensor, k: int, a: Tensor, keys: Tensor, neighbours: int) -> Result:
    n = len(x)
    kept = top(a.tolist(), k - 1)
    outputs = {}
    for i in kept:
        others = [j for j in range(n) if j != i]
        near = top([cos(keys[i], keys[j]) for j in range(n)], min(neighbours, n - 1), others)
        outputs[i] = x[i] + sum(a[j] * x[j] for j in near)
    rest = [i for i in range(n) if i not in kept]
    outputs[top(a.tolist(), 1, rest)[0]] = sum(a[j] * x[j] for j in rest)
    return ordered(outputs)


def trim(x: Tensor, k: int, text: Tensor, sign: int) -> Result:
    """`text` (m, d) holds the unmasked question tokens."""
    scores = [float(v.norm()) for v in x]
    if len(text):
        mean = text.mean(0)
        zero = [float(v.norm()) <= 1e-12 or float(mean.norm()) <= 1e-12 for v in x]
        scores = [0.0 if z else sign * float(v @ mean / (v.norm() * mean.norm())) for v, z in zip(x, zero, strict=True)]
    kept = top(scores, k - 1)
    rest = [i for i in range(len(x)) if i not in kept]
    return ordered({**{i: x[i] for i in kept}, top(scores, 1, rest)[0]: x[rest].mean(0)})


def vscan(
    x: Tensor, k: int, a: Tensor, shallow: Tensor, grid: tuple[int, ...], window: int, ratio: float, merge: bool
) -> Result:
    h, w = grid[-2:]
    windows: dict[tuple[int, int, int], list[int]] = {}
    for i in range(len(x)):
        f, y, column = i // (h * w), i // w % h, i % w
        windows.setdefault((f, y // window, column // window), []).append(i)
    rank = {}
    for tokens in windows.values():
        for r, i in enumerate(top(shallow.tolist(), len(tokens), tokens)):
            rank[i] = r
    count = math.floor(k * ratio)
    local = sorted(rank, key=lambda i: (rank[i], -float(shallow[i]), i))[:count]
    kept = sorted(local + top(a.tolist(), k - count, [i for i in range(len(x)) if i not in local]))
    groups = {i: [i] for i in kept}
    for i in range(len(x)):
        if merge and i not in kept:
            groups[kept[best([cos(x[i], x[j]) for j in kept])]].append(i)
    return ordered({i: x[group].mean(0) for i, group in groups.items()})


def tome(x: Tensor, k: int, compared: Tensor) -> Result:
    left = [(compared[i], [i], i) for i in range(len(x))]  # mean of what is compared, members, anchor
    while len(left) > k:
        r = min(len(left) - k, len(left) // 2)
        a, b = left[0::2], left[1::2]
        likeness = [[cos(one[0], other[0]) for other in b] for one in a]
        merging = top([max(row) for row in likeness], r)
        into = {i: best(likeness[i]) for i in merging}
        following = []
        for place, (mean, group, anchor) in enumerate(left):
            if place % 2 == 0 and place // 2 in merging:
                continue
            whole, total = list(group), len(group) * mean
            for i, target in into.items():
                if place % 2 == 1 and target == place // 2:
                    whole += a[i][1]
                    total = total + len(a[i][1]) * a[i][0]
            following.append((total / len(whole), whole, anchor))
        left = following
    return ordered({anchor: x[group].mean(0) for _, group, anchor in left})


def density_peaks(x: Tensor, neighbours: int) -> list[float]:
    """rho delta of each token."""
    n, d = x.shape
    e = [[float((x[i] - x[j]).norm()) / math.sqrt(d) for j in range(n)] for i in range(n)]
    m = min(neighbours, n)
    rho = [math.exp(-sum(v * v for v in sorted(row)[:m]) / m) for row in e]
    delta = []
    for i in range(n):
        denser = [e[i][j] for j in range(n) if rho[j] > rho[i] or (rho[j] == rho[i] and j < i)]
        delta.append(min(denser) if denser else max(map(max, e)))
    return [r * s for r, s in zip(rho, delta, strict=True)]


def dpc_knn(x: Tensor, k: int, neighbours: int) -> Result:
    centres = sorted(top(density_peaks(x, neighbours), k))
    groups = {c: [c] for c in centres}
    for i in range(len(x)):
        if i not in centres:
            groups[centres[best([-float((x[i] - x[c]).norm()) for c in centres])]].append(i)
    return ordered({c: x[group].mean(0) for c, group in groups.items()})


def scissor(x: Tensor, k: int) -> Result:
    """Kruskal on the sorted pairs."""
    n = len(x)
    of = list(range(n))
    pairs = sorted((-cos(x[i], x[j]), i, j) for i in range(n) for j in range(i + 1, n))
    for _, i, j in pairs:
        if len(set(of)) > k and of[i] != of[j]:
            gone, stays = of[j], of[i]
            of = [stays if c == gone else c for c in of]
    parts = []
    for c in set(of):
        group = [i for i in range(n) if of[i] == c]
        mean = x[group].mean(0)
        parts.append((group[best([cos(x[i], mean) for i in group])], mean))
    parts.sort(key=lambda part: part[0])
    totals = [mean.clone() for _, mean in parts]
    counts = [1] * len(parts)
    for i in range(n):
        g = best([cos(x[i], mean) for _, mean in parts])
        totals[g] += x[i]
        counts[g] += 1
    return [anchor for anchor, _ in parts], torch.stack([t / c for t, c in zip(totals, counts, strict=True)])


def equal_parts(m: int, p: int) -> list[int]:
    return [(j + 1) * m // p - j * m // p for j in range(p)]


def fastvid(
    x: Tensor,
    k: int,
    a: Tensor,
    grid: tuple[int, int, int],
    segments: int,
    threshold: float,
    context_ratio: float,
    period: int,
    anchor_weight: float,
) -> Result:
    t, size = grid[0], grid[1] * grid[2]
    frames = [list(range(f * size, (f + 1) * size)) for f in range(t)]
    direction = torch.stack([v / v.norm() if v.norm() > 1e-12 else torch.zeros_like(v) for v in x])
    vectors = [direction[frame].mean(0) for frame in frames]
    likeness = [cos(vectors[f], vectors[f + 1]) for f in range(t - 1)]
    cuts = set(top([-c for c in likeness], min(segments, t) - 1)) | {f for f in range(t - 1) if likeness[f] < threshold}
    parts: list[list[int]] = [[]]
    for f in range(t):
        parts[-1].append(f)
        if f in cuts:
            parts.append([])

    budgets = equal_parts(k, t)
    context = [math.floor(r * context_ratio) for r in budgets]
    salient: set[int] = set()
    for f in range(t):
        salient |= set(top(a.tolist(), budgets[f] - context[f], frames[f]))
    outputs = {i: x[i] for i in salient}
    for part in filter(None, parts):
        anchors = [f for f in part if (part[-1] - f) % period == 0]
        open_tokens = [i for f in part for i in frames[f] if i not in salient]
        for f, count in zip(anchors, equal_parts(sum(context[g] for g in part), len(anchors)), strict=True):
            own = [i for i in frames[f] if i not in salient]
            scores = density_peaks(x[own], 4) if own else []
            centres = sorted(own[i] for i in top(scores, count))
            joined: dict[int, list[int]] = {c: [] for c in centres}
            for i in open_tokens:
                if centres:
                    joined[centres[best([cos(x[i], x[c]) for c in centres])]].append(i)
            for c, group in joined.items():
                weight = max(anchor_weight, 1 / (len(group) + 1))
                outputs[c] = weight * x[c] + (1 - weight) * x[group].mean(0) if group else x[c]
    for i in top(a.tolist(), k - len(outputs), [i for i in range(len(x)) if i not in outputs]):
        outputs[i] = x[i]
    return ordered(outputs)
