"""Square windows of a channels-last map, their scan states, and padding to a multiple.

Shapes: x (B, H, W, c); windows (B * nh * nw, w, w, c) with nh = H / w, nw = W / w, row-major over windows;
a state per window (B * nh * nw, K * D, N).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def window_partition(x: torch.Tensor, window: int) -> torch.Tensor:
    """Cut `x` (B, H, W, c) into windows (B * nh * nw, w, w, c); H and W are multiples of `window`."""
    B, H, W, c = x.shape
    x = x.view(B, H // window, window, W // window, window, c)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, window, window, c)


def window_merge(windows: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Undo `window_partition`: windows (B * nh * nw, w, w, c) back to (B, H, W, c) with `size` = (H, W)."""
    H, W = size
    window, c = windows.shape[1], windows.shape[-1]
    x = windows.view(-1, H // window, W // window, window, window, c)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, H, W, c)


def resize_window_states(states: torch.Tensor, grid_from: tuple[int, int], grid_to: tuple[int, int]) -> torch.Tensor:
    """Carry one state per window to a grid of other size: children copy their parent, parents average children.

    Args:
        states: (B * nh * nw, K * D, N).
        grid_from: (nh, nw) of `states`.
        grid_to: (nh, nw) wanted.
    """
    if grid_from == grid_to:
        return states
    KD, N = states.shape[1:]
    maps = states.view(-1, *grid_from, KD * N).permute(0, 3, 1, 2)
    mode = "nearest" if grid_to[0] > grid_from[0] else "area"
    maps = F.interpolate(maps, size=grid_to, mode=mode)
    return maps.permute(0, 2, 3, 1).reshape(-1, KD, N)


def _reflected_index(size: int, padded: int, device: torch.device) -> torch.Tensor:
    """Indices 0..padded-1 folded back into 0..size-1 without repeating the edge, any number of times."""
    if size == 1:
        return torch.zeros(padded, dtype=torch.long, device=device)
    period = 2 * (size - 1)
    folded = torch.arange(padded, device=device) % period
    return torch.minimum(folded, period - folded)


def pad_to_multiple(x: torch.Tensor, multiple: int) -> torch.Tensor:
    """Reflect `x` (B, C, H, W) at the bottom and right up to the next multiple, however small `x` is.

    `torch.nn.functional.pad` refuses a reflection longer than the image; tiny images are padded here all the same.
    """
    for dim in (2, 3):
        size = x.shape[dim]
        padded = -(-size // multiple) * multiple
        if padded != size:
            x = x.index_select(dim, _reflected_index(size, padded, x.device))
    return x
