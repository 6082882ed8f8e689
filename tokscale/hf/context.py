"""Context for the compressor: the question, the grid, what the tower attends to. Only what `needs` and `uses` name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import ArgumentError, MissingContextError
from .attention import NOTED
from .cutting import Modality

if TYPE_CHECKING:
    from .handle import PatchHandle


class Context:
    """Collects keyword arguments of `compress` for the images of one call."""

    def __init__(
        self, handle: PatchHandle, named: dict[str, Any], parts: list[Modality], encoded: dict[str, Any]
    ) -> None:
        self._handle, self._named, self._encoded = handle, named, encoded
        self.needs = frozenset(handle.compressor.needs)
        self.reads = self.needs | frozenset(handle.compressor.uses)
        self._parts = parts
        self._said: tuple[Tensor, Tensor] | None = None

    def of(self, part: Modality, members: list[int]) -> dict[str, Any]:
        """Return the context of a stack of images of one size and grid, given by number."""
        found: dict[str, Any] = {}
        if "text" in self.reads:
            found["text_tokens"], found["text_mask"] = self._text(part, members)
        if "grid" in self.reads:
            grid = part.grids[members[0]]
            if grid is not None:
                found["grid"] = grid
            elif "grid" in self.needs:
                self._missing("grid", "its tokens are no rectangle")
        for what in NOTED:
            if what not in self.reads:
                continue
            noted = getattr(self._encoded, "noted", {}).get(what, {}).get(part.name)
            if noted is not None:
                found[what] = torch.stack([noted[part.images[i].start : part.images[i].end] for i in members])
            elif what in self.needs:
                self._missing(what, "it was not collected; pass the pixels, or what handle.encode(...) returned")
        return found

    def _missing(self, what: str, why: str) -> None:
        name = type(self._handle.compressor).__name__
        raise MissingContextError(f"{name} needs {what}, and {self._handle._host.model_type} gives none here: {why}")

    def _text(self, part: Modality, members: list[int]) -> tuple[Tensor, Tensor]:
        """Return the question of each image, (g, t, d) embeddings and (g, t) bool."""
        ids = self._named["input_ids"]
        is_text, chosen = self._is_text()
        rows = torch.tensor([part.images[i].row for i in members], device=ids.device)
        mask = is_text[rows]  # g S
        if not chosen:
            first, last = self._columns(part)
            place = torch.arange(ids.shape[1], device=ids.device)
            picked = torch.tensor(members, device=ids.device)
            after = mask & (place > last[picked, None])
            before = mask & (place < first[picked, None])
            mask = torch.where(after.any(1, keepdim=True), after, before)
        width = int(mask.sum(1).max())
        order = torch.sort((~mask).to(torch.uint8), dim=1, stable=True).indices[:, :width]
        mask = mask.gather(1, order)
        words = ids[rows].gather(1, order).masked_fill(~mask, 0)  # ids of images may lie outside the vocabulary
        return self._handle._host.model.get_input_embeddings()(words), mask  # type: ignore[operator]

    def _columns(self, part: Modality) -> tuple[Tensor, Tensor]:
        """Return the first and the last column of each image's placeholders."""
        columns = part.mask.nonzero()[:, 1]
        widths = torch.tensor(part.widths, device=columns.device)
        ends = widths.cumsum(0)
        return columns[ends - widths], columns[ends - 1]

    def _is_text(self) -> tuple[Tensor, bool]:
        """Return (B, S) bool, the columns that may be the question, and whether the caller chose them."""
        if self._said is None:
            self._said = self._find_text()
        return self._said  # type: ignore[return-value]

    def _find_text(self) -> Any:
        handle, ids = self._handle, self._named["input_ids"]
        is_image = torch.stack([part.mask for part in self._parts]).any(0)
        if handle._question is not None:
            rows = []
            for row, image in zip(ids, is_image):
                said = torch.as_tensor(handle._question(row, image), device=ids.device)
                if said.dtype != torch.bool or said.shape != row.shape:
                    raise ArgumentError(
                        f"question returned {said.dtype} of shape {tuple(said.shape)}; it must return a bool mask of "
                        f"shape {tuple(row.shape)}, True at the question"
                    )
                rows.append(said)
            return torch.stack(rows), True
        said = ~torch.isin(ids, handle._not_text(ids.device)) & ~is_image
        mask = self._named.get("attention_mask")
        if isinstance(mask, Tensor) and mask.shape == ids.shape:
            said &= mask.bool()
        labels = self._named.get("labels")
        if isinstance(labels, Tensor) and labels.shape == ids.shape:
            said &= labels == -100  # the answer must not leak into the selection
        return said, False
