"""The parts of `CrossAttentionFuser`: one layer of attention over image and question, and the pointer to the image."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .. import ops
from .compressed import exact, wide
from .layers import layer_norm


def linear_parameter(out_features: int, in_features: int) -> nn.Parameter:
    """Return a weight with `nn.Linear`'s initial values, for products that the operator folds.

    It is a parameter and no `nn.Linear`: a wrapper round the layer's forward (an adapter, a hook) would have no effect.
    """
    bound = 1 / math.sqrt(in_features)
    return nn.Parameter(torch.empty(out_features, in_features).uniform_(-bound, bound))


class FusionLayer(nn.Module):
    """Queries attend to the image and the question under one softmax, then pass an MLP; both steps add to them.

    `l_ij = q_i.K_j/sqrt(d_h) + B(i, j)`, `l'_im = q_i.K'_m/sqrt(d_h) + beta`, with
    `B_h = -softplus(w_h) ((dy/H)^2 + (dx/W)^2 + (dt/T)^2)` from token centre to cell centre.
    """

    def __init__(self, dim: int, num_heads: int, hidden: int, text: bool, spatial: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = layer_norm(dim)
        self.to_q = nn.Linear(dim, dim)
        self.key_weight = linear_parameter(dim, dim)
        self.value_weight = linear_parameter(dim, dim)
        self.value_bias = nn.Parameter(torch.empty(dim).uniform_(-1 / math.sqrt(dim), 1 / math.sqrt(dim)))
        self.to_out = nn.Linear(dim, dim)
        if text:
            self.text_to_k = nn.Linear(dim, dim, bias=False)
            self.text_to_v = nn.Linear(dim, dim)
            self.text_bias = nn.Parameter(torch.zeros(num_heads))  # beta
        if spatial:
            slope = 4 * 2 ** (-8 * torch.arange(num_heads, dtype=torch.float64) / num_heads)
            self.slope = nn.Parameter(slope.expm1().log().float())  # softplus(self.slope) = slope
        if hidden:
            self.mlp = nn.Sequential(layer_norm(dim), nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))
        self.text, self.spatial, self.hidden = text, spatial, hidden

    def forward(
        self,
        z: Tensor,
        u: Tensor,
        s: Tensor | None,
        text_mask: Tensor | None,
        distances: Tensor,
        *,
        path: str = "auto",
        return_importance: bool = False,
        backend: str = "auto",
    ) -> tuple[Tensor, Tensor | None]:
        """Return the new queries (b, k, dim) and, if asked for, the attention each token received (b, n).

        Args:
            z: (b, k, dim) queries. u: (b, n, dim) normalised vision tokens. s: (b, t, dim) question or None.
            text_mask: (b, t) or None. distances: (k, n) squared distances in sizes of the cell.
        """
        q = self._heads(self.to_q(self.norm(z)))
        dtype = q.dtype  # under autocast the products' dtype: everything in the softmax shares it
        k_text = v_text = text_bias = vision_bias = None
        if self.text and s is not None and s.shape[1]:
            k_text, v_text = self._heads(self.text_to_k(s)), self._heads(self.text_to_v(s))
            text_bias = self.text_bias.to(distances.dtype)
        if self.spatial:
            slope = nn.functional.softplus(self.slope.to(distances.dtype))
            vision_bias = -slope.view(-1, 1, 1) * distances  # h k n, in float32 or wider
        with exact(q):
            fused = ops.projected_fusion_attention(
                q,
                u.to(dtype),
                self.key_weight.to(dtype),
                self.value_weight.to(dtype),
                k_text,
                v_text,
                b_v=self.value_bias.to(dtype),
                text_mask=text_mask if k_text is not None else None,
                vision_bias=vision_bias,
                text_bias=text_bias,
                path=path,
                return_importance=return_importance,
                backend=backend,
            )
        z = z + self.to_out(fused.out.transpose(1, 2).flatten(2))
        if self.hidden:
            z = z + self.mlp(z)
        return z, fused.importance

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class Pointer(nn.Module):
    """Each query's attention over the vision tokens themselves, and a gate that says how much of it to take.

    `w = softmax_j(W_a h . W_b u_j / sqrt(dim))`, `g = sigmoid(w_g . h + b_g)` with `w_g = 0`, `b_g = -1` at the start.
    The keys are folded into the queries, `(W_b' W_a h) . u_j`: with one head that is always the cheaper order.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.key_weight = linear_parameter(dim, dim)
        self.gate = nn.Linear(dim, 1)
        nn.init.zeros_(self.gate.weight)
        nn.init.constant_(self.gate.bias, -1.0)

    def forward(self, h: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return the attention (b, k, n) and the gate (b, k, 1), in float32 or wider."""
        q = self.to_q(h)
        q = q @ self.key_weight.to(q.dtype)
        logits = q @ u.to(q.dtype).transpose(1, 2) * h.shape[-1] ** -0.5
        dtype = wide(h.dtype)
        return torch.softmax(logits, dim=-1, dtype=dtype), torch.sigmoid(self.gate(h).to(dtype))
