"""Square windows of a channels-last map, their scan states, and padding to a multiple.

Shapes: x (B, H, W, c); windows (B * nh * nw, w, w, c) with nh = H / w, nw = W / w, row-major over windows;
a state per window (B * nh * nw, K * D, N).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor


def window_partition(x: Tensor, window: int) -> Tensor:
    """Cut `x` (B, H, W, c) into windows (B * nh * nw, w, w, c); H and W are multiples of `window`."""
    return rearrange(x, "b (nh h) (nw w) c -> (b nh nw) h w c", h=window, w=window)


def window_merge(windows: Tensor, size: tuple[int, int]) -> Tensor:
    """Undo `window_partition`: windows (B * nh * nw, w, w, c) back to (B, H, W, c) with `size` = (H, W)."""
    (H, W), window = size, windows.shape[1]
    return rearrange(windows, "(b nh nw) h w c -> b (nh h) (nw w) c", nh=H // window, nw=W // window)


def resize_window_states(states: Tensor, grid_from: tuple[int, int], grid_to: tuple[int, int]) -> Tensor:
    """Resample one state per window to another grid of windows: finer grids copy, coarser ones average.

    Args:
        states: (B * nh * nw, K * D, N).
        grid_from: (nh, nw) of `states`.
        grid_to: (nh, nw) of the result.
    """
    if grid_from == grid_to:
        return states
    (nh, nw), N = grid_from, states.shape[2]
    maps = rearrange(states, "(b nh nw) kd n -> b (kd n) nh nw", nh=nh, nw=nw)
    mode = "nearest" if grid_to[0] > grid_from[0] else "area"
    maps = F.interpolate(maps, size=grid_to, mode=mode)
    return rearrange(maps, "b (kd n) nh nw -> (b nh nw) kd n", n=N)


def _reflected_index(size: int, padded: int, device: torch.device) -> Tensor:
    """Return indices 0..padded-1 folded back into 0..size-1, without repeating the edge, as often as needed."""
    if size == 1:
        return torch.zeros(padded, dtype=torch.long, device=device)
    period = 2 * (size - 1)
    # as a tensor: exporters do not take the remainder of a division by a size that is still unknown
    folded = torch.arange(padded, device=device) % torch.full((1,), period, device=device)
    return torch.minimum(folded, period - folded)


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Pad `x` (B, C, H, W) by reflection at the bottom and right up to the next multiple, however small `x` is.

    `torch.nn.functional.pad` refuses a reflection longer than the image; here it is reflected repeatedly.
    """
    for dim in (2, 3):
        size = x.shape[dim]
        padded = (size + multiple - 1) // multiple * multiple
        if not isinstance(size, int) or padded != size:  # a size that is unknown at export is always taken by index
            x = x.index_select(dim, _reflected_index(size, padded, x.device))
    return x
