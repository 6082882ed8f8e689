"""What the PyTorch paths of the attention operators share: precision, visible keys, block sizes, one softmax."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

Result = TypeVar("Result")

BLOCK_ELEMENTS = 1 << 18  # scores that are in work at a time on a CPU, a thread: 1 MiB of fp32, near the core's cache
BLOCK_ELEMENTS_GPU = 1 << 26
MIN_ROWS = 16  # fewer rows a block would leave the products without reuse
BF16_INSTRUCTIONS = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """fp64 for fp64, else fp32: the precision of scores, softmax and sums."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def block_elements(tensor: Tensor) -> int:
    """How many scores one block may hold on this device; threads that share a block of one core's size mostly wait."""
    return BLOCK_ELEMENTS * torch.get_num_threads() if tensor.device.type == "cpu" else BLOCK_ELEMENTS_GPU


def narrow_products(tensor: Tensor) -> bool:
    """Whether products of this dtype that sum in fp32 are fast here: bf16, on a CPU that has instructions for it."""
    return tensor.dtype == torch.bfloat16 and tensor.device.type == "cpu" and BF16_INSTRUCTIONS


def visible_keys(n: int, mask: Tensor | None, lengths: Tensor | None) -> Tensor | None:
    """A mask (b, n) from a mask or from lengths, None where every key is visible."""
    if lengths is None:
        return mask
    return torch.arange(n, device=lengths.device) < lengths[:, None]


def join_masks(first: Tensor | None, second: Tensor | None, sizes: tuple[int, int, int]) -> Tensor | None:
    """The mask (b, n + t) over two segments of which either may be unmasked; `sizes` is (b, n, t)."""
    if first is None and second is None:
        return None
    b, n, t = sizes
    if first is None:
        first = second.new_ones((b, n))  # type: ignore[union-attr]
    elif second is None:
        second = first.new_ones((b, t))
    return torch.cat([first, second], 1)


def if_it_hides(mask: Tensor | None) -> Tensor | None:
    """None for a mask that keeps everything, on a CPU, where looking is cheap; else the mask."""
    if mask is None or (mask.device.type == "cpu" and bool(mask.all())):
        return None
    return mask


def may_be_dead(mask: Tensor | None, *biases: Tensor | None) -> bool:
    """Whether some row may see no key: by the mask (b, n), or by a bias of -inf. On a GPU nobody waits to look."""
    given = [bias for bias in biases if bias is not None]
    looked_at = mask if mask is not None else next(iter(given), None)
    if looked_at is None:
        return False
    if looked_at.device.type != "cpu" or any(bool(torch.isneginf(bias).any()) for bias in given):
        return True
    return mask is not None and not bool(mask.any(-1).all())


def batched(x: Tensor) -> Tensor:
    """Heads of several samples (s, heads, length, d) as one batch of products; a product would copy them transposed."""
    return x.contiguous() if x.shape[0] > 1 else x


def hide(scores: Tensor, visible: Tensor) -> None:
    """Set scores to -inf where a mask that broadcasts to them is False, in place: `min(s, inf)` is s, bit for bit.

    On a CPU `masked_fill_` with a mask that broadcasts takes ten times as long; it is for products of hidden content
    that overflow to NaN, which no minimum hides.
    """
    if scores.device.type == "cpu":
        limit = visible.to(scores.dtype).sub_(0.5).mul_(torch.inf)
        torch.minimum(scores, limit, out=scores)
        if not math.isnan(float(scores.sum())):
            return
    scores.masked_fill_(~visible, -torch.inf)


def joint_softmax(scores: Tensor, dead: bool, with_top: bool = False) -> tuple[Tensor, Tensor | None]:
    """Softmax of `scores` over the last axis, and the row maxima if asked for; a row of -inf gives zeros.

    `dead`: some row may see no key. Where none can, the look at the maxima is saved.
    """
    top = scores.amax(-1, keepdim=True) if dead or with_top else None
    p = torch.softmax(scores, -1)
    if dead:
        unseeing = top == -torch.inf
        if unseeing.device.type != "cpu" or bool(unseeing.any()):
            p.masked_fill_(unseeing, 0)
    return p, top


def log_sum_exp(p: Tensor, top: Tensor) -> Tensor:
    """The rows' log-sum-exp from `joint_softmax`: the largest probability is `exp(top - lse)`."""
    return (top - p.amax(-1, keepdim=True).log()).masked_fill_(top == -torch.inf, -torch.inf).squeeze(-1)


def softmax_backward(dp: Tensor, p: Tensor, d_lse: Tensor | None) -> Tensor:
    """Gradient of the scores: `P * (dP - sum_j P dP + dlse)`."""
    ds = torch.ops.aten._softmax_backward_data(dp, p, -1, p.dtype)
    if d_lse is not None:
        ds.addcmul_(p, d_lse.unsqueeze(-1))
    return ds


def differentiates(*tensors: Tensor | None) -> bool:
    """Whether a backward may follow."""
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


def autocast(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """The tensors in autocast's dtype where autocast is on, as PyTorch does for its own attention and linear layers."""
    first = next(t for t in tensors if t is not None)
    kind = first.device.type
    if not torch.is_autocast_enabled(kind):
        return tensors
    dtype = torch.get_autocast_dtype(kind)
    return tuple(t if t is None or t.dtype == torch.float64 else t.to(dtype) for t in tensors)


def without_autocast(function: Callable[..., Result]) -> Callable[..., Result]:
    """Run `function(inputs, ...)` with autocast off: it would turn the fp32 products inside an operator to bf16."""

    @functools.wraps(function)
    def run(inputs: Any, *args: Any, **kwargs: Any) -> Result:
        kind = inputs.q.device.type
        if not torch.is_autocast_enabled(kind):
            return function(inputs, *args, **kwargs)
        with torch.autocast(kind, enabled=False):
            return function(inputs, *args, **kwargs)

    return run
