"""The rectangle that an image's tokens make, from whatever a processor says of its size."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from tokscale.hf.patches import scaled, to_tokens, window_order
from tokscale.hf.shapes import picture_sizes, tile_size, token_grids


@pytest.mark.parametrize(
    ("modality", "named", "sizes"),
    [
        ("image", {"image_grid_thw": torch.tensor([[1, 4, 6], [1, 8, 4]])}, [(1, 4, 6), (1, 8, 4)]),
        ("video", {"video_grid_thw": torch.tensor([[3, 4, 6]])}, [(3, 4, 6)]),
        ("image", {"image_sizes": torch.tensor([[32, 48]])}, [(1, 32, 48)]),
        ("image", {"image_sizes": [[32, 48]]}, [(1, 32, 48)]),
        ("image", {"spatial_shapes": torch.tensor([[4, 6]])}, [(1, 4, 6)]),
        ("video", {"target_sizes_videos": torch.tensor([[4, 6]])}, [(1, 4, 6)]),
        # column and row of each patch, padding behind
        ("image", {"image_position_ids": torch.tensor([[[0, 0], [1, 0], [2, 0], [-1, -1]]])}, [(1, 1, 3)]),
        ("image", {"pixel_values": torch.zeros(1, 3, 32, 48)}, None),
        ("video", {"image_grid_thw": torch.tensor([[1, 4, 6]])}, None),
    ],
)
def test_sizes_of_a_call(modality: str, named: dict[str, Any], sizes: Any) -> None:
    assert picture_sizes(modality, named) == sizes


def test_pixels_become_patches() -> None:
    """A picture of 400 x 900 that was resized to 24 x 24 patches is no 16 x 36."""
    sizes = picture_sizes("image", {"image_sizes": torch.tensor([[400, 900]])}, patch=14)
    assert sizes == [(1, 28, 64)]
    assert token_grids(sizes, [576], None) == [None]
    assert picture_sizes("image", {"image_sizes": torch.tensor([[32, 48]])}, patch=8) == [(1, 4, 6)]


def test_pixels_tell_the_shape_where_nothing_else_does() -> None:
    assert tile_size("image", {"pixel_values": torch.zeros(2, 3, 32, 48)}) == (1, 32, 48)
    assert tile_size("image", {"pixel_values": torch.zeros(2, 5, 3, 32, 48)}) == (1, 32, 48)
    assert tile_size("image", {"pixel_values": torch.zeros(24, 384)}) is None
    assert tile_size("video", {"pixel_values": torch.zeros(2, 3, 32, 48)}) is None


@pytest.mark.parametrize(
    ("sizes", "lengths", "merge", "grids"),
    [
        ([(1, 4, 6), (1, 8, 4)], [6, 8], 2, [(1, 2, 3), (1, 4, 2)]),
        ([(1, 4, 6), (1, 8, 4)], [24, 32], None, [(1, 4, 6), (1, 8, 4)]),
        ([(1, 32, 48)], [24], 2, [(1, 4, 6)]),  # pixels, whatever is merged
        ([(1, 2, 3)], [6], 2, [(1, 2, 3)]),  # a table of tokens
        ([(1, 4, 6)], [8], 2, [None]),  # a newline per row
        ([(1, 2, 8)], [4], None, [(1, 1, 4)]),  # 4 tokens are no 2 x 2
        ([(3, 4, 6)], [18], 2, [(3, 2, 3)]),
        ([(4, 4, 6)], [12], 2, [(2, 2, 3)]),  # pairs of frames become one
        ([(4, 4, 6)], [6], 2, [(1, 2, 3)]),  # all of them
        ([(4, 4, 6)], [7], 2, [None]),
        # three tiles of one image, and an image of one
        ([(1, 6, 6), (1, 6, 6), (1, 4, 6), (1, 8, 4)], [24, 8], 2, [None, (1, 4, 2)]),
        ([(1, 4, 6)] * 3, [18], 2, [None]),  # tiles that are alike make none either
        ([(1, 6, 6), (1, 6, 6)], [9, 9, 9], 2, [None, None, None]),  # does not add up
    ],
)
def test_grids(sizes: Any, lengths: list[int], merge: int | None, grids: Any) -> None:
    assert token_grids(sizes, lengths, merge) == grids


def test_scaled_keeps_the_shapes() -> None:
    assert scaled([(1, 4, 6), (2, 8, 4)], 6 + 16) == [(1, 2, 3), (2, 4, 2)]
    assert scaled([(1, 5, 6)], 7) == [(0, 0, 0)]
    assert scaled([(0, 0, 0)], 7) == [(0, 0, 0)]


# from patches to tokens, on numbers that a reader can check


def test_four_consecutive() -> None:
    noted = [torch.arange(8.0), torch.arange(8.0, 16)]
    assert to_tokens("consecutive", noted, 4, [(1, 2, 4), (1, 2, 4)], merge=2).tolist() == [1.5, 5.5, 9.5, 13.5]
    assert to_tokens("consecutive", noted, 2, [(2, 2, 4)], merge=2) is None  # merged over time: not consecutive
    assert to_tokens("consecutive", noted, 3, None) is None


def test_blocks_of_a_picture_and_its_cls() -> None:
    patches = torch.arange(8.0)  # 0 1 2 3 over 4 5 6 7
    cls = torch.tensor([100.0])
    (left, right) = to_tokens("raster", [patches], 2, [(1, 2, 4)]).tolist()
    assert (left, right) == (2.5, 4.5)
    assert to_tokens("raster", [torch.cat([cls, patches])], 2, [(1, 20, 40)], cls=0, prefix=1).tolist() == [2.5, 4.5]
    assert to_tokens("raster", [torch.cat([patches, cls])], 2, [(1, 1, 2)], cls=-1, prefix=1).tolist() == [2.5, 4.5]
    assert to_tokens("raster", [torch.cat([cls, patches])], 2, [(1, 2, 4)]) is None  # nothing says that there is one
    assert to_tokens("raster", [patches], 2, None) is None and to_tokens("raster", [], 2, None) is None


def test_packed_pictures_are_told_apart() -> None:
    flat = torch.arange(12.0)  # 2 x 4 and 2 x 2
    assert to_tokens("raster", [flat], 3, [(1, 2, 4), (1, 2, 2)]).tolist() == [2.5, 4.5, 9.5]


def test_a_cls_that_is_a_token() -> None:
    kept: Tensor = torch.arange(5.0)
    assert torch.equal(to_tokens("same", [kept, kept], 10, None, cls=0, prefix=1), torch.cat([kept, kept]))
    assert to_tokens("same", [kept, kept], 8, None, cls=0, prefix=1).tolist() == [1, 2, 3, 4, 1, 2, 3, 4]


def test_windows_are_undone() -> None:
    """2 x 3 tokens, windows of 2 x 2 tokens: the first holds tokens 0, 1, 3, 4."""
    vision = SimpleNamespace(spatial_merge_size=2, window_size=32, patch_size=8)
    assert window_order([(1, 2, 3)], vision).tolist() == [0, 1, 3, 4, 2, 5]
    assert window_order([(2, 1, 1), (1, 2, 3)], vision).tolist() == [0, 1, 2, 3, 5, 6, 4, 7]
    found = to_tokens("window", [torch.arange(24.0)], 6, [(1, 4, 6)], merge=2, vision=vision)
    assert found.tolist() == [1.5, 5.5, 17.5, 9.5, 13.5, 21.5]  # token 2: patches 16-19, as 8-11 stand in token 3


def test_a_first_row_that_is_left_out() -> None:
    rows = torch.arange(10.0).view(2, 5)
    assert to_tokens("same", list(rows), 8, None).tolist() == [1, 2, 3, 4, 6, 7, 8, 9]
    assert to_tokens("same", list(rows), 6, None) is None
    assert to_tokens("same", list(rows), 5, None) is None  # two patches are no token


def test_patches_named_one_by_one() -> None:
    pooling = torch.tensor([[0, 1], [3, -1]])
    assert to_tokens("pooled", [torch.arange(4.0)], 2, None, pooling=pooling).tolist() == [0.5, 3.0]
    assert to_tokens("pooled", [torch.arange(4.0)], 2, None) is None
