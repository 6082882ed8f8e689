"""How a call describes its scores to the attention kernels: what is given, and by which strides."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from ._triton import INTERPRETED, alignment, block_d, constants
from ._triton.launch import Known


class Call(NamedTuple):
    """One segment's scores as a kernel gets them: pointers, strides, sizes and what is given, as one argument."""

    q: Any
    k: Any
    seen: Any
    mask: Any
    index: Any
    bias: Any
    head_bias: Any
    votes: Any
    ends_q: Any
    ends_k: Any
    q_b: Any
    q_h: Any
    q_m: Any
    k_b: Any
    k_g: Any
    k_n: Any
    seen_b: Any
    seen_n: Any
    mask_b: Any
    mask_h: Any
    mask_m: Any
    mask_n: Any
    index_b: Any
    index_m: Any
    bias_h: Any
    bias_m: Any
    bias_n: Any
    votes_b: Any
    votes_m: Any
    m: Any
    n: Any
    heads: Any
    share: Any  # query heads of a key head
    pack: Any  # how many of them lie in one tile
    offset: Any
    scale: Any
    D: Any  # from here on constants of the compilation
    BLOCK_D: Any
    ALIGN: Any  # divides every stride of q and k: loads of so many elements together
    HAS_SEEN: Any
    HAS_MASK: Any
    HAS_INDEX: Any
    CAUSAL: Any
    HAS_BIAS: Any
    HAS_HEAD_BIAS: Any
    HAS_VOTES: Any
    SEGMENTS: Any
    PACKED: Any  # pack > 1
    WIDE: Any


class Scores(NamedTuple):
    """One segment's scores and who sees whom; rows of `pack` query heads of a key head lie in one tile.

    `s_ij = scale q_i . k_j + bias_ij + head_bias`. With `ends_q`, `ends_k`, q and k are packed: (1, heads, total, d).
    """

    q: Tensor  # b h m d
    k: Tensor  # b g n d
    scale: float
    key_mask: Tensor | None = None  # b n
    attn_mask: Tensor | None = None  # b h M n, expanded; read at `positions`
    positions: Tensor | None = None  # b m
    offset: int | None = None  # causal: row i sees key j iff j <= i + offset; packed segments take their own n - m
    bias: Tensor | None = None  # h m n
    head_bias: Tensor | None = None  # h
    votes: Tensor | None = None  # b m
    ends_q: Tensor | None = None  # b + 1
    ends_k: Tensor | None = None
    longest: tuple[int, int] = (0, 0)  # rows and keys of the longest packed segment
    pack: int = 1

    @property
    def sizes(self) -> tuple[int, int, int, int, int, int]:
        """b, h, g, m, n, d; of packed segments: how many, and the longest."""
        (b, h, m, d), (_, g, n, _) = self.q.shape, self.k.shape
        if self.ends_q is not None:
            return self.ends_q.shape[0] - 1, h, g, *self.longest, d
        return b, h, g, m, n, d

    @property
    def rows(self) -> int:
        """Rows in work together: those of `pack` heads."""
        return self.pack * self.sizes[3]

    @property
    def row_programs(self) -> int:
        """Samples times groups of packed heads."""
        b, h, *_ = self.sizes
        return b * h // self.pack

    def packed(self, room: int = 64) -> Scores:
        """With the query heads of a key head in one tile, where they fit it: keys are read once for all of them."""
        _, h, g, m, _, _ = self.sizes
        return self._replace(pack=h // g if h // g * m <= room else 1)

    def ascending(self) -> Scores:
        """The same scores with a scale above 0, so that a row's largest product is its largest score."""
        if not self.scale <= 0:
            return self
        return self._replace(q=-self.q, scale=-self.scale) if self.scale < 0 else self._replace(q=self.q * 0, scale=1.0)

    def call(self) -> Call | Known:
        """The first argument of every attention kernel; what is not given is None, with strides of 0."""
        _, h, g, m, n, d = self.sizes
        q, k, segments = self.q, self.k, self.ends_q is not None
        optional = (self.key_mask, self.attn_mask, self.positions, self.bias, self.head_bias, self.votes)
        seen, mask, index, bias, head_bias, votes = (tensor is not None for tensor in optional)
        q_strides, k_strides = q.stride(), k.stride()
        numbers = (
            0 if segments else q_strides[0],  # segments follow one another along the third axis
            *q_strides[1:3],
            0 if segments else k_strides[0],
            *k_strides[1:3],
            *_strides(self.key_mask, 2),
            *_strides(self.attn_mask, 4),
            *_strides(self.positions, 2),
            *_strides(self.bias, 3),
            *_strides(self.votes, 2),
            m,
            n,
            h,
            h // g,
            self.pack,
            self.offset or 0,
            self.scale,
        )
        fixed = (
            d,
            block_d(d),
            alignment(q_strides, k_strides),
            seen,
            mask,
            index,
            self.offset is not None,
            bias,
            head_bias,
            votes,
            segments,
            self.pack > 1,
            INTERPRETED,
        )
        call = Call(q, k, *optional, self.ends_q, self.ends_k, *numbers, *constants(*fixed))
        return call if INTERPRETED else Known(call, 4 + len(optional), (*numbers, *fixed))


def _strides(tensor: Tensor | None, axes: int) -> tuple[int, ...]:
    return (0,) * axes if tensor is None else tensor.stride()[:axes]
