"""How much attention each key receives, without the matrix of all scores."""

from .op import attention_importance
from .varlen import attention_importance_varlen

__all__ = ["attention_importance", "attention_importance_varlen"]
