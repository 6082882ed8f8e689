"""The distance to the uncompressed model. (The answer's cross-entropy is the model's own loss.)"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def distill_loss(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Return `tau^2/|T| sum_{t in T} KL(softmax(z[t]/tau) || softmax(z_k[t]/tau))` in float32.

    `z` are the teacher's logits (the uncompressed model), `z_k` the student's (at budget k); the factor tau^2 keeps the
    gradient's size when the temperature changes.

    Args:
        student: logits at the positions T, with gradient.
        teacher: logits of the same positions, without.
        temperature: tau > 0.

    Shape:
        student, teacher (|T|, vocabulary) -> (); 0 exactly where both are equal.

    Source:
        Geoffrey Hinton, Oriol Vinyals, Jeff Dean. Distilling the Knowledge in a Neural Network. 2015. arXiv 1503.02531.
    """
    log_p = F.log_softmax(teacher.detach().float() / temperature, dim=-1)
    log_q = F.log_softmax(student.float() / temperature, dim=-1)
    return temperature**2 * (log_p.exp() * (log_p - log_q)).sum(-1).mean()


def text_after_image(is_image: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Return the positions on which to distil where no label says so: real text after a row's last image.

    Shape:
        is_image (b, s) bool, attention_mask (b, s) or None -> (b, s) bool.
    """
    columns = torch.arange(is_image.shape[1], device=is_image.device)
    last = torch.where(is_image, columns, -1).amax(-1, keepdim=True)
    chosen = columns > last
    return chosen if attention_mask is None else chosen & attention_mask.bool()


def predicted(labels: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Return the labelled tokens that a real token precedes: the first of a row is predicted by none.

    Shape:
        labels (b, s), attention_mask (b, s) or None -> (b, s) bool.
    """
    chosen = labels != -100
    preceded = torch.ones_like(chosen) if attention_mask is None else attention_mask.bool()
    return chosen & F.pad(preceded[:, :-1], (1, 0))


def before(tokens: Tensor) -> Tensor:
    """Return the columns whose logits predict `tokens`, (b, s) bool: those one to the left.

    The short prompt is shifted by itself: where an image ends just before an answer, the placeholder that predicts it
    in the long prompt may have left, and the one before it predicts in its place.
    """
    return F.pad(tokens[:, 1:], (0, 1))
