"""Floor 1: stateless functions of tensors, one folder per operator.

Each folder holds `op.py` (signature, checks, registration with `torch.library`), `reference.py` (the definition in
plain PyTorch), `torch_path.py` (the same, fast) and, where there is one, `kernel.py` (Triton), `triton_path.py` (its
launches) and `configs.py` (its tiles). `attention_backward` holds what the attention operators share.
"""

from ._backend import explain
from .attention_importance import attention_importance, attention_importance_varlen
from .fusion_attention import FusionOutput, fusion_attention
from .greedy_select import GreedySelection, greedy_select
from .projected_fusion_attention import projected_fusion_attention
from .topk_gather import TopKGather, topk_gather

__all__ = [
    "FusionOutput",
    "GreedySelection",
    "TopKGather",
    "attention_importance",
    "attention_importance_varlen",
    "explain",
    "fusion_attention",
    "greedy_select",
    "projected_fusion_attention",
    "topk_gather",
]
