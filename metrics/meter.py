"""Mean and standard deviation over a test set, exact over batches of any size and over processes.

The meter keeps one number per image and index (at most a few thousand) and averages at the end: averages of averages
would be wrong for a smaller last batch.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, distributed

from lemamba.utils.errors import UserError


class Meter:
    """Collect per-image values.

    In a distributed run (`torch.distributed` initialised) `per_sample` and `compute` gather from all ranks, so every
    rank must call them. Pass `index` to `update` where a sampler repeats images to fill the last batch: each image
    then counts once, in the order of the index.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Discard all values."""
        self._names: tuple[str, ...] | None = None
        self._rows: list[Tensor] = []
        self._index: list[Tensor] = []

    def update(self, values: Mapping[str, Tensor], index: Tensor | None = None) -> None:
        """Add a batch.

        Args:
            values: name -> (B,), the same names in every call.
            index: (B,) position of each image in the test set; in every call or in none.
        """
        names = tuple(values)
        if self._names not in (None, names):
            raise ValueError(f"Meter: names changed from {self._names} to {names}")
        rows = torch.stack([v.detach().double().cpu().reshape(-1) for v in values.values()], dim=1)
        if bool(self._rows) and (index is not None) != bool(self._index):
            raise ValueError("Meter: pass index in every update or in none")
        self._names = names
        self._rows.append(rows)
        if index is not None:
            self._index.append(torch.as_tensor(index).cpu().reshape(-1))

    def per_sample(self) -> dict[str, Tensor]:
        """All values: name -> (n,) float64, in order of the index, else rank after rank in order of arrival."""
        state = (self._names, self._rows, self._index)
        gathered = [state]
        if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
            gathered = [state] * distributed.get_world_size()
            distributed.all_gather_object(gathered, state)
        names = next((g[0] for g in gathered if g[0] is not None), None)  # a rank may have had no batch
        if names is None:
            raise UserError("expected at least one image to measure, given none; check the data")
        if any(g[0] not in (None, names) for g in gathered):
            raise ValueError("Meter: ranks hold different names")
        rows = torch.cat([row for g in gathered for row in g[1]])
        index = [i for g in gathered for i in g[2]]
        if index:
            rows = rows[_first_of_each(torch.cat(index))]
        return dict(zip(names, rows.unbind(dim=1), strict=True))

    def compute(self) -> dict[str, tuple[float, float]]:
        """Mean and standard deviation (n - 1) per name.

        The deviation of one image is 0 (as in MATLAB). With an Inf among the values (PSNR of equal images) the mean is
        Inf and the deviation NaN.
        """
        return {name: mean_std(values) for name, values in self.per_sample().items()}


def mean_std(values: Tensor) -> tuple[float, float]:
    """Mean and standard deviation (n - 1) of (n,) values; see `Meter.compute` for one value and for Inf."""
    mean = values.mean()
    if len(values) == 1:
        return float(mean), 0.0
    return float(mean), float(((values - mean).square().sum() / (len(values) - 1)).sqrt())


def _first_of_each(index: Tensor) -> Tensor:
    """Positions of the first occurrence of each index, in ascending order of the index."""
    order = torch.argsort(index, stable=True)
    ordered = index[order]
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[1:] = ordered[1:] != ordered[:-1]
    return order[first]
