"""Train a compressor inside a frozen vision-language model: `train_compressor` returns a `TrainResult`."""

from .loop import train_compressor
from .losses import distill_loss
from .result import TrainResult

__all__ = ["TrainResult", "distill_loss", "train_compressor"]
