"""Triton kernels of the folded path: the softmax between its two products, and that softmax's backward.

Scores of a sample lie as (h m, width): n vision keys, then t of the question, then padding up to an even stride. A
program owns `ROWS` rows of one sample and works in place; what a key receives is written once per program.
"""

from __future__ import annotations

import triton.language as tl

from .._triton import LN2, LOG2E, jit
from .._triton.device import narrow


@jit
def joint_scores(a, batch, row, key, row_in):
    """Biased scores in units of log 2 of a tile of rows and keys, -inf where not seen."""
    head, at = row // a.m, row % a.m
    vision = (key < a.n)[None, :]
    inside = row_in[:, None] & (key < a.n + a.t)[None, :]
    place = (batch * a.rows + row)[:, None] * a.width + key[None, :]
    s = tl.load(a.scores + place, inside, 0.0).to(tl.float32)
    if a.HAS_ROW_BIAS:
        s += tl.where(vision, tl.load(a.row_bias + batch * a.rows + row, row_in, 0.0)[:, None], 0.0)
    if a.HAS_TEXT_BIAS:
        s += tl.where(vision, 0.0, tl.load(a.text_bias + head, row_in, 0.0).to(tl.float32)[:, None])
    if a.HAS_BIAS:
        lies = head[:, None] * a.bias_h + at[:, None] * a.bias_m + key[None, :] * a.bias_n
        s += tl.load(a.bias + lies, inside & vision, 0.0).to(tl.float32)
    if a.HAS_SEEN:
        seen = tl.load(a.seen + batch * a.seen_b + key * a.seen_n, key < a.n + a.t, 0).to(tl.int1)
        inside = inside & seen[None, :]
    return tl.where(inside, s * LOG2E, -float("inf")), place


@jit
def softmax_colsum(a, lse, mass, received, R: tl.constexpr, BN: tl.constexpr, SUMS: tl.constexpr):
    """Probabilities in the place of the scores, the rows' log-sum-exp and mass on vision, what each key receives.

    Grid (row blocks, b). `received` is (row blocks, b, width) in fp32, from the probabilities before they are rounded.
    """
    batch = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * R + tl.arange(0, R).to(tl.int64)
    row_in = row < a.rows
    top = tl.full([R], -float("inf"), tl.float32)
    total = tl.zeros([R], tl.float32)
    for block in range(0, a.n + a.t, BN):
        key = block + tl.arange(0, BN).to(tl.int64)
        s, _ = joint_scores(a, batch, row, key, row_in)
        new = tl.maximum(top, tl.max(s, 1))
        safe = tl.where(new == -float("inf"), 0.0, new)
        total = total * tl.exp2(top - safe) + tl.sum(tl.exp2(s - safe[:, None]), 1)
        top = new
    none = total == 0.0  # a row that sees no key
    full = tl.where(none, 1.0, total)
    safe = tl.where(top == -float("inf"), 0.0, top)  # also where all is NaN, which a maximum passes over
    on_vision = tl.zeros([R], tl.float32)
    for block in range(0, a.width, BN):
        key = block + tl.arange(0, BN).to(tl.int64)
        s, place = joint_scores(a, batch, row, key, row_in)
        p = tl.exp2(s - safe[:, None]) / full[:, None]
        on_vision += tl.sum(tl.where((key < a.n)[None, :], p, 0.0), 1)
        rounded = narrow(p, a.scores.dtype.element_ty, a.WIDE)
        tl.store(a.scores + place, rounded, row_in[:, None] & (key < a.width)[None, :])
        if SUMS:
            start = received + (tl.program_id(0) * tl.num_programs(1) + batch) * a.width
            tl.store(start + key, tl.sum(tl.where(row_in[:, None], p, 0.0), 0), key < a.width)
    tl.store(lse + batch * a.rows + row, tl.where(none, -float("inf"), (top + tl.log2(full)) * LN2), row_in)
    tl.store(mass + batch * a.rows + row, on_vision, row_in)


@jit
def cotangent(c, batch, row, key, row_in):
    """P and dP of a tile: from the output's product, from the mass on vision, from what a key receives."""
    inside = row_in[:, None] & (key < c.n + c.t)[None, :]
    place = (batch * c.rows + row)[:, None] * c.width + key[None, :]
    p = tl.load(c.p + place, inside, 0.0).to(tl.float32)
    d_p = tl.load(c.d_p + place, inside, 0.0).to(tl.float32)
    if c.HAS_MASS:
        d_mass = tl.load(c.d_mass + batch * c.rows + row, row_in, 0.0)[:, None]
        d_p += tl.where((key < c.n)[None, :], d_mass, 0.0)
    if c.HAS_RECEIVED:
        d_p += tl.load(c.received + batch * (c.n + c.t) + key, key < c.n + c.t, 0.0)[None, :]
    return p, d_p, place, inside


@jit
def softmax_backward(c, mass, on_vision, on_text, R: tl.constexpr, BN: tl.constexpr):
    """`dS = P (dP - sum_j P dP + dlse)` in the place of dP; the mass on vision, and dS summed over either segment.

    Grid (row blocks, b). A row that sees no key has P = 0, so dS = 0.
    """
    batch = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * R + tl.arange(0, R).to(tl.int64)
    row_in = row < c.rows
    delta = tl.zeros([R], tl.float32)
    weight = tl.zeros([R], tl.float32)
    for block in range(0, c.n + c.t, BN):
        key = block + tl.arange(0, BN).to(tl.int64)
        p, d_p, _, _ = cotangent(c, batch, row, key, row_in)
        delta += tl.sum(p * d_p, 1)
        weight += tl.sum(tl.where((key < c.n)[None, :], p, 0.0), 1)
    if c.HAS_LSE:
        delta -= tl.load(c.d_lse + batch * c.rows + row, row_in, 0.0)
    vision = tl.zeros([R], tl.float32)
    text = tl.zeros([R], tl.float32)
    for block in range(0, c.n + c.t, BN):
        key = block + tl.arange(0, BN).to(tl.int64)
        p, d_p, place, inside = cotangent(c, batch, row, key, row_in)
        d_s = p * (d_p - delta[:, None])
        vision += tl.sum(tl.where((key < c.n)[None, :], d_s, 0.0), 1)
        text += tl.sum(tl.where((key < c.n)[None, :], 0.0, d_s), 1)
        tl.store(c.d_p + place, narrow(d_s, c.d_p.dtype.element_ty, c.WIDE), inside)
    lies = batch * c.rows + row
    tl.store(mass + lies, weight, row_in)
    tl.store(on_vision + lies, vision, row_in)
    tl.store(on_text + lies, text, row_in)
