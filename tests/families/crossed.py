"""The reference of a model that reads images by cross-attention; it uses no code of the library.

The unpatched language model is called with the states and the mask of the kept tokens, gathered by hand.
"""

from typing import Any

import torch
from torch import Tensor, nn

from tests.families.case import Case
from tests.tiny_models import Prompt


def tokens_of(tiles: Tensor, per_tile: int) -> list[Tensor]:
    """The columns of the tokens of each image of a row, from its (images, tiles) mask."""
    columns = torch.arange(tiles.numel() * per_tile).view(*tiles.shape, per_tile)
    return [columns[i][mask.bool()].flatten() for i, mask in enumerate(tiles) if mask.any()]


def expected(case: Case, batch: Prompt, compressor: Any) -> tuple[Tensor, Tensor]:
    """Logits at the kept tokens of one row, and the columns of the prompt that stay: all of them."""
    tiles = batch.inputs["aspect_ratio_mask"][0]
    reader = case.model.get_decoder()

    def hook(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        states, mask = kwargs["cross_attention_states"], kwargs["cross_attention_mask"]
        kept = []
        for columns in tokens_of(tiles, states.shape[1]):
            kept.append(columns[compressor.compress(torch.zeros(1, len(columns), 1)).positions[0]])
        index = torch.cat(kept)
        short = states.flatten(0, 1)[index][None]
        return args, {**kwargs, "cross_attention_states": short, "cross_attention_mask": mask[..., index]}

    handle = reader.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        return case.forward(batch, use_cache=False).logits, torch.ones(batch.ids.shape[1], dtype=torch.bool)
    finally:
        handle.remove()
