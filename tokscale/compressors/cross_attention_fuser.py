"""A fixed number of queries reads the image and the question by cross-attention, starting from pooled tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .._checks import one_of, positive_int
from ..errors import ArgumentError
from .base import TokenCompressor
from .cells import pooling, squared_distances
from .compressed import Compressed, mixed, per_sample, wide
from .fuser_layers import FusionLayer, Pointer
from .layers import check_queries, check_width, layer_norm, module_dtype, real
from .registry import register_compressor

CONDITIONS = ("keys", "query", "both", "none")


@register_compressor("cross_attention")
class CrossAttentionFuser(TokenCompressor):
    """`k = min(num_tokens, n)` tokens fused from image and question, trained inside a frozen model.

        p = P x                              P (k, n): the weights of `cells(k, grid)`
        u = LN(x);  s = W_t LN(text)
        z = E[:k] + W_p LN(p) + W_c m        m: masked mean of s, 0 if the question is empty
        depth times: one softmax over image and question (`FusionLayer`), then an MLP
        h = LN(z);  w = softmax_j(W_a h . W_b u_j / sqrt(dim));  g = sigmoid(w_g . h + b_g)
        y = R (p + g (w x - p)) + W_out h    W_out = 0 at the start; R = identity if out_dim = dim

    A fresh fuser is near the pooler, and with `pointer=False` equals `AdaptivePooler` bit for bit. One fuser serves
    every budget up to `num_queries`, by the first k queries: train with a random budget per step. `assignment` is that
    of the linear path `p + g (w x - p)`; `positions` are the cells' anchors.

    Args:
        num_tokens: tokens to keep, an integer from 1 to `num_queries`.
        dim: width of the vision tokens.
        text_dim: width of the question's tokens; `dim` if None.
        out_dim: width of the output; `dim` if None, else R is a semi-orthogonal Linear at the start.
        num_heads: attention heads; divides `dim`.
        num_queries: learned queries, the largest budget; `num_tokens` if None.
        depth: layers.
        mlp_ratio: hidden width of each layer's MLP in units of `dim`; 0 drops the MLP.
        condition: how the question enters: "keys" (a second key/value segment), "query" (its mean shifts the queries),
            "both", or "none" (blind: no question is needed).
        spatial_bias: attention falls off with the distance from the query's cell.
        pointer: the path `w x`, which hands a frozen model tokens that it has seen before; keep it.
        collect_scores: also return the last layer's attention to each vision token, mean over heads and queries.
        backend: "auto", "torch" or "triton", as in `tokscale.ops`.

    Shape: (b, n, dim) and (b, t, text_dim) -> (b, k, out_dim).

    Raises:
        BudgetError: `num_tokens` above `num_queries`.
        ArgumentError: `num_heads` does not divide `dim`, or an unknown option.
        ShapeError: tokens of another width than the module was built for.

    Cost: a layer projects n tokens, 4 n dim^2 FLOPs, or folds that into the queries where `num_heads k` is at most .6
    of `dim + k`: then 4 num_heads k n dim.

    Example:
        >>> fuser = CrossAttentionFuser(num_tokens=4, dim=16)
        >>> fuser(torch.randn(2, 36, 16), text_tokens=torch.randn(2, 5, 16)).shape
        torch.Size([2, 4, 16])

    Source: Li, Zhou, Zhao, Zhao, Scaling Capability in Token Space: An Analysis of Large Vision Language Model, 2025,
    arXiv 2412.18387. Differs from it in that it is cross-attention (theirs is a causal decoder over image, question and
    queries), starts from pooled tokens, and has the pointer.
    """

    needs = frozenset({"text"})
    uses = frozenset({"grid"})
    trainable = True
    question_aware = True
    mixture = True
    also_known_as = ("fuser", "cross_attention_fuser", "q_former", "resampler", "perceiver_resampler")

    def __init__(
        self,
        num_tokens: int,
        dim: int,
        *,
        text_dim: int | None = None,
        out_dim: int | None = None,
        num_heads: int = 8,
        num_queries: int | None = None,
        depth: int = 2,
        mlp_ratio: float = 2.0,
        condition: str = "both",
        spatial_bias: bool = True,
        pointer: bool = True,
        collect_scores: bool = False,
        backend: str = "auto",
    ) -> None:
        self.num_queries = positive_int(num_tokens if num_queries is None else num_queries, "num_queries")
        super().__init__(num_tokens)
        self.dim = positive_int(dim, "dim")
        self.text_dim = self.dim if text_dim is None else positive_int(text_dim, "text_dim")
        self.out_dim = self.dim if out_dim is None else positive_int(out_dim, "out_dim")
        self.num_heads, self.depth = positive_int(num_heads, "num_heads"), positive_int(depth, "depth")
        if self.dim % self.num_heads:
            raise ArgumentError(f"dim={dim} is not a multiple of num_heads={num_heads}")
        self.mlp_ratio = real("mlp_ratio", mlp_ratio, least=0)
        self.condition = one_of("condition", condition, CONDITIONS)
        self.backend = one_of("backend", backend, ("auto", "torch", "triton"))
        self.spatial_bias, self.pointer, self.collect_scores = bool(spatial_bias), bool(pointer), bool(collect_scores)
        self.question_aware = condition != "none"
        self.needs = frozenset({"text"} if self.question_aware else ())
        self._build()

    def _build(self) -> None:
        dim, as_keys = self.dim, self.condition in ("keys", "both")
        hidden = round(self.mlp_ratio * dim)
        self.queries = nn.Parameter(0.5 * torch.randn(self.num_queries, dim))
        self.norm_vision, self.norm_pooled, self.norm_out = layer_norm(dim), layer_norm(dim), layer_norm(dim)
        self.from_pooled = nn.Linear(dim, dim, bias=False)
        if self.question_aware:
            self.norm_text = layer_norm(self.text_dim)
            self.from_text = nn.Linear(self.text_dim, dim)
        if self.condition in ("query", "both"):
            self.from_question = nn.Linear(dim, dim, bias=False)
        self.layers = nn.ModuleList(
            FusionLayer(dim, self.num_heads, hidden, as_keys, self.spatial_bias) for _ in range(self.depth)
        )
        if self.pointer:
            self.point = Pointer(dim)
        self.to_out = nn.Linear(dim, self.out_dim, bias=False)
        nn.init.zeros_(self.to_out.weight)
        if self.out_dim != dim:
            self.residual = nn.Linear(dim, self.out_dim, bias=False)
            nn.init.orthogonal_(self.residual.weight)

    def check_budget(self, num_tokens: int) -> None:
        check_queries(self, num_tokens)
        super().check_budget(num_tokens)

    def compress(self, vision_tokens: Tensor, **context: Any) -> Compressed:
        x = vision_tokens
        b, n, _ = x.shape
        k, grid, dtype = self.output_length(n), context["grid"], wide(x.dtype)
        check_width(self, "vision_tokens", x, self.dim)
        matrix, anchors = pooling(k, grid, dtype, x.device)
        weights = module_dtype(self.norm_vision)
        distances = squared_distances(k, grid, wide(weights), x.device)

        pooled = mixed(x, matrix)
        u = self.norm_vision(x.to(weights))
        z = self.queries[:k] + self.from_pooled(self.norm_pooled(pooled.to(weights)))
        s, mask, mean = self._question(context.get("text_tokens"), context.get("text_mask"), weights)
        if mean is not None:
            z = z + self.from_question(mean).unsqueeze(1)
        importance = None
        for i, layer in enumerate(self.layers):
            wanted = self.collect_scores and i == self.depth - 1
            z, importance = layer(z, u, s, mask, distances, return_importance=wanted, backend=self.backend)
        h = self.norm_out(z)

        assignment, linear = matrix, pooled
        if self.pointer:
            w, g = self.point(h, u)
            assignment = torch.lerp(matrix, w.to(dtype), g.to(dtype))  # (1 - g) P + g w
            linear = mixed(x, assignment)
        if self.out_dim != self.dim:
            linear = self.residual(linear.to(weights)).to(dtype)
        tokens = (linear + self.to_out(h).to(dtype)).to(x.dtype)
        scores = None if importance is None else importance.float() / (self.num_heads * k)
        return Compressed(tokens, per_sample(anchors, b), per_sample(assignment.float(), b, share=True), scores)

    def _question(
        self, text: Tensor | None, mask: Tensor | None, dtype: torch.dtype
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The question as keys (b, t, dim), its mask, and its masked mean (b, dim), as far as `condition` uses them."""
        if text is None or not self.question_aware:
            return None, None, None
        check_width(self, "text_tokens", text, self.text_dim, "text_dim")
        text = text.to(dtype)
        if mask is not None:
            text = text.masked_fill(~mask.unsqueeze(-1), 0)  # what is masked has no effect, not even on rounding
        s = self.from_text(self.norm_text(text))
        mean = None
        if self.condition != "keys":
            if mask is None:
                mean = s.sum(1) / max(1, s.shape[1])
            else:
                total = s.masked_fill(~mask.unsqueeze(-1), 0).sum(1)
                mean = total / mask.sum(1, keepdim=True).clamp(min=1)
        return s, mask, mean
