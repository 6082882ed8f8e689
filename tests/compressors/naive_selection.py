"""The selectors of the page as plain loops, one sample at a time in float64: slow, and easy to check by eye.

Every function takes tokens x (n, d) and gives the chosen positions, in ascending order unless it says otherwise.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def top(scores: list[float], m: int, among: list[int] | None = None) -> list[int]:
    """The m best of `among`, best first; ties to the lower index."""
    pool = list(range(len(scores))) if among is None else sorted(among)
    return sorted(pool, key=lambda i: -scores[i])[:m]


def cosine(u: Tensor, v: Tensor, both_zero: float = 1.0) -> float:
    a, b = float(u.norm()), float(v.norm())
    if a <= 1e-12 or b <= 1e-12:
        return both_zero if a <= 1e-12 and b <= 1e-12 else 0.0
    c = float(u @ v) / (a * b)
    return 1.0 if 1 - c < 1e-6 else c


def cosines(x: Tensor) -> list[list[float]]:
    n = len(x)
    return [[1.0 if i == j else cosine(x[i], x[j]) for j in range(n)] for i in range(n)]


def share(m: int, p: int) -> list[int]:
    return [(j + 1) * m // p - j * m // p for j in range(p)]


def mean_cosine(x: Tensor, text: Tensor) -> list[float]:
    return [sum(cosine(i, t, both_zero=0.0) for t in text) / len(text) for i in x]


# Diversity and coverage


def farthest(c: list[list[float]], k: int, chosen: list[int]) -> list[int]:
    """Go on from `chosen` by max-min distance, in the order of choice."""
    n = len(c)
    chosen = list(chosen)
    while len(chosen) < k:
        near = [min(1 - c[i][j] for i in chosen) if j not in chosen else -1.0 for j in range(n)]
        chosen.append(top(near, 1)[0])
    return chosen


def divprune(x: Tensor, k: int) -> list[int]:
    c = cosines(x)
    n = len(c)
    alone = [min((1 - c[i][j] for i in range(n) if i != j), default=math.inf) for j in range(n)]
    return sorted(farthest(c, k, top(alone, 1)))


def dpp_order(kernel: Tensor, c: list[list[float]], k: int) -> list[int]:
    """By the ratio of determinants at each step; past the rank by `farthest`. In the order of choice."""
    n, chosen = len(kernel), []
    limit = 1e-6 * max(float(kernel[i, i]) for i in range(n))
    while len(chosen) < k:
        volume = float(torch.linalg.det(kernel[chosen][:, chosen])) if chosen else 1.0
        ratio = [-1.0] * n
        for j in set(range(n)) - set(chosen):
            ratio[j] = float(torch.linalg.det(kernel[[*chosen, j]][:, [*chosen, j]])) / volume
            ratio[j] = round(ratio[j], 9)  # a determinant rounds by its order of pivots, and copies must tie
        best = top(ratio, 1)[0]
        if ratio[best] <= limit:
            return farthest(c, k, chosen)
        chosen.append(best)
    return chosen


def dpp(x: Tensor, k: int) -> list[int]:
    c = cosines(x)
    return sorted(dpp_order(torch.tensor(c, dtype=torch.float64), c, k))


def cdpruner(x: Tensor, k: int, text: Tensor, sign: int = 1, theta: float | None = None) -> list[int]:
    c = cosines(x)
    n = len(x)
    r = [1.0] * n
    if len(text):
        q = [sign * value for value in mean_cosine(x, text)]
        if max(q) - min(q) > 1e-12:
            r = [(value - min(q) + 1e-6) / (max(q) - min(q)) for value in q]
    if theta is not None:
        r = [math.exp(value * theta / (2 * (1 - theta))) for value in r]
    kernel = torch.tensor([[r[i] * c[i][j] * r[j] for j in range(n)] for i in range(n)], dtype=torch.float64)
    return sorted(dpp_order(kernel, c, k))


def dart(x: Tensor, k: int, text: Tensor, image_pivots: int = 4, text_pivots: int = 4) -> list[int]:
    own = sorted(top([float(i.abs().sum()) for i in x], min(image_pivots, k)))
    asked = sorted(top([float(t.abs().sum()) for t in text], min(text_pivots, len(text))))
    chosen = list(own)
    pivots = [(x[i], 1.0) for i in own] + [(text[m], 0.0) for m in asked]
    q, rem = divmod(k - len(own), len(pivots))
    for turn, (pivot, both_zero) in enumerate(pivots):
        left = [j for j in range(len(x)) if j not in chosen]
        chosen += top([-cosine(pivot, token, both_zero) for token in x], q + (turn < rem), left)
    return sorted(chosen)


def assert_covers(table: list[list[float]], order: list[int], weight: list[float]) -> None:
    """Each choice has the largest gain left, up to rounding; table[r][j]: how well candidate j covers row r.

    Candidates often tie: where i and j alone are uncovered and each covers the other, both add c_ij + 1 - b_i - b_j.
    """
    covered = [0.0] * len(table)
    for step, best in enumerate(order):
        gain = [w * sum(max(0.0, row[j] - b) for row, b in zip(table, covered)) for j, w in enumerate(weight)]
        most = max(gain[j] for j in range(len(weight)) if j not in order[:step])
        assert best not in order[:step] and gain[best] >= most - 1e-12 * max(1.0, most)
        covered = [max(b, row[best]) for row, b in zip(table, covered)]


def softmax(values: list[float], temperature: float) -> list[float]:
    parts = [math.exp((value - max(values)) / temperature) for value in values]
    return [part / sum(parts) for part in parts]


def mmtok_rows(x: Tensor, text: Tensor, of_text: float, of_vision: float, weight: float) -> list[list[float]]:
    """Rows to cover at the temperatures `of_text` and `of_vision`."""
    rows = []
    for t in text:
        chance = softmax([cosine(token, t, both_zero=0.0) for token in x], of_text)
        rows.append([value / len(text) for value in chance])
    for row in cosines(x):
        rows.append([weight * value / len(x) for value in softmax(row, of_vision)])
    return rows


def idpruner(x: Tensor, k: int, a: list[float], balance: float = 0.5) -> list[int]:
    c = cosines(x)
    size = max(a) - min(a)
    worth = [1.0 if size <= 1e-12 else (value - min(a)) / size for value in a]
    chosen: list[int] = []
    while len(chosen) < k:
        value = [
            balance * worth[j] - (1 - balance) * (max(c[i][j] for i in chosen) if chosen else 0) for j in range(len(x))
        ]
        chosen += top(value, 1, [j for j in range(len(x)) if j not in chosen])
    return sorted(chosen)


def vispruner(x: Tensor, k: int, a: list[float], ratio: float = 0.5, step: int = 8) -> list[int]:
    c = cosines(x)
    order = top(a, len(a))
    first = math.floor(k * ratio)
    chosen, left, size = order[:first], order[first:], k - first
    if size == 0:
        return sorted(chosen)
    while len(left) > size:
        ours, theirs = left[0::2], left[1::2]
        near = [max(c[i][j] for j in theirs) for i in ours]
        by_likeness = [ours[i] for i in top(near, len(near))]
        left = by_likeness[min(step, len(left) - size, len(ours)) :] + theirs
    return sorted(chosen + left)


# Attention


def text_rater(x: Tensor, k: int, text: Tensor) -> list[int]:
    if not len(text):
        return sorted(top([float(i.norm()) for i in x], k))
    g = [[float(i @ t) / math.sqrt(x.shape[1]) for t in text] for i in x]
    by_token = [softmax(row, 1.0) for row in g]
    relevance = [sum(row[m] for row in by_token) / len(x) for m in range(len(text))]
    raters = [m for m in range(len(text)) if relevance[m] >= sum(relevance) / len(text) - 1e-12]
    by_word = [softmax([row[m] for row in g], 1.0) for m in raters]
    return sorted(top([sum(word[i] for word in by_word) / len(raters) for i in range(len(x))], k))


def holov(k: int, a: list[float], chunks: int = 16) -> list[int]:
    n = len(a)
    parts = min(chunks, n)
    runs, start = [], 0
    for r in range(parts):
        stop = start + n // parts + (1 if r < n % parts else 0)
        runs.append(list(range(start, stop)))
        start = stop
    mean = [sum(a[i] for i in run) / len(run) for run in runs]
    w = [m / sum(mean) for m in mean] if sum(mean) > 0 else [1 / parts] * parts
    quota = [min(math.floor(w[r] * k + 1e-9), len(runs[r])) for r in range(parts)]
    while sum(quota) < k:
        for r in top(w, parts):
            if sum(quota) < k and quota[r] < len(runs[r]):
                quota[r] += 1
    return sorted(i for run, m in zip(runs, quota, strict=True) for i in top(a, m, run))


def hiprune(k: int, a: list[float], shallow: list[float], grid: tuple[int, ...], alpha: float = 0.1) -> list[int]:
    h, w = grid[-2:]
    anchors = top(shallow, math.floor(k * alpha / 5 + 0.5))
    beside = set()
    for i in anchors:
        row, column = i // w % h, i % w
        around = [(row > 0, i - w), (row < h - 1, i + w), (column > 0, i - 1), (column < w - 1, i + 1)]
        beside |= {j for there, j in around if there}
    chosen = (anchors + top(shallow, len(beside), list(beside - set(anchors))))[:k]
    return sorted(chosen + top(a, k - len(chosen), [i for i in range(len(a)) if i not in chosen]))


# Video


def evs(x: Tensor, k: int, grid: tuple[int, int, int]) -> list[int]:
    """For k > h w."""
    places = grid[1] * grid[2]
    change = [math.inf if i < places else 1 - cosine(x[i], x[i - places]) for i in range(len(x))]
    return sorted(top(change, k))


def vidcom2(x: Tensor, k: int, grid: tuple[int, int, int]) -> list[int]:
    n, places = len(x), grid[1] * grid[2]
    variance = [float((channel - channel.mean()).square().mean()) for channel in x.T]
    channels = top([-v for v in variance], max(1, x.shape[1] // 2))
    y = [row / row.norm() if float(row.norm()) > 1e-12 else 0 * row for row in x[:, channels]]
    clip = sum(y) / n

    def g(value: Tensor, mean: Tensor) -> float:
        return sum(math.exp(-float((value - mean).square().sum()) / 2 ** (e + 1)) for e in range(-3, 2))

    frames = [list(range(f * places, (f + 1) * places)) for f in range(grid[0])]
    v = [g(row, clip) for row in y]
    s = [v[i] + g(y[i], sum(y[j] for j in frame) / places) for frame in frames for i in frame]
    p = softmax([-sum(v[i] for i in frame) / places for frame in frames], 0.01)
    chosen: list[int] = []
    for frame, chance in zip(frames, p, strict=True):
        wanted = places * min(1, k / n * (1 + chance - sum(p) / len(p)))
        chosen += top([-value for value in s], min(max(math.floor(wanted + 0.5 + 1e-6), 1), places), frame)
    if len(chosen) > k:
        gone = top(s, len(chosen) - k, chosen)
        return sorted(set(chosen) - set(gone))
    return sorted(chosen + top([-value for value in s], k - len(chosen), sorted(set(range(n)) - set(chosen))))


def dycoke(x: Tensor, k: int, grid: tuple[int, int, int], window: int = 4) -> list[int]:
    """For k >= K h w."""
    places = grid[1] * grid[2]
    key = [f for f in range(grid[0]) if f % window == 0]
    other = [f for f in range(grid[0]) if f % window]
    chosen = [f * places + i for f in key for i in range(places)]
    for f, quota in zip(other, share(k - len(chosen), len(other)) if other else [], strict=True):
        inside = f % window
        base = f - inside + (inside - (inside & -inside))
        change = [1 - cosine(x[f * places + i], x[base * places + i]) for i in range(places)]
        chosen += [f * places + i for i in top(change, quota)]
    return sorted(chosen)
