"""FlexAttention as a baseline: attention with its log-sum-exp, and importance by exchanging queries and keys."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def flex(q: Tensor, k: Tensor, v: Tensor, score_mod: Any = None) -> tuple[Tensor, Tensor]:
    """(out, natural log-sum-exp); the caller compiles it."""
    from torch.nn.attention import flex_attention as module

    if not q.is_cuda:  # a dry run: unfused, and without a compiler that takes longer than everything else
        module._FLEX_ATTENTION_DISABLE_COMPILE_DEBUG = True
    gqa = q.shape[1] != k.shape[1]
    out, aux = module.flex_attention(
        q, k, v, score_mod=score_mod, enable_gqa=gqa, return_aux=module.AuxRequest(lse=True)
    )
    return out, aux.lse


def key_sums(q: Tensor, k: Tensor, lse: Tensor) -> Tensor:
    """(b, n): `log c_hj = LSE_i(scale k_j . q_i - lse_i)`, attention of the keys over the queries with a bias."""
    k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)

    def less_lse(score: Tensor, b: Tensor, h: Tensor, row: Tensor, column: Tensor) -> Tensor:
        return score - lse[b, h, column]

    return flex(k, q, q, less_lse)[1].float().exp().sum(1)
