"""Where a run speaks: train.log, the terminal, TensorBoard scalars and one image panel lms | sr | gt | error.

Only the main process writes; in the others every method does nothing.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils.progress import ProgressBar


def panel(lms: Tensor, sr: Tensor, gt: Tensor, rgb: tuple[int, int, int]) -> Tensor:
    """Lay lms | sr | gt | error side by side: images (C, H, W) → picture (3, H, 4·W) in [0, 1].

    The three are stretched between the 1st and 99th percentile of gt; the error is the mean over bands of |sr − gt|,
    white at a tenth of that range.
    """
    bands = [b if b < gt.shape[0] else 0 for b in rgb]
    shown = torch.stack([x[bands].float().cpu() for x in (lms, sr, gt)])
    low, high = torch.quantile(shown[2].flatten()[:: max(1, shown[2].numel() // 100_000)], torch.tensor([0.01, 0.99]))
    span = (high - low).clamp_min(1e-6)
    error = ((sr.float() - gt.float()).abs().mean(0).cpu() / (0.1 * span)).expand(3, -1, -1)
    return torch.cat([*((shown - low) / span), error], dim=-1).clamp(0, 1)


class Logger:
    """Log of one run.

    Args:
        folder: the run's folder; ``train.log`` is appended there.
        tensorboard: folder of the TensorBoard files, None = none.
        main: False silences it.
        step: step from which TensorBoard goes on; what a killed run wrote beyond it is hidden.
        epochs: length of the progress bar.
    """

    def __init__(self, folder: Path, tensorboard: Path | None, *, main: bool, step: int, epochs: float) -> None:
        self.main = main
        self._file = (folder / "train.log").open("a", encoding="utf-8") if main else None
        self._board: Any = None
        self._bar = ProgressBar("training", epochs, show=sys.stderr.isatty() if main else False)
        self._bar.__enter__()
        if main and tensorboard is not None:
            from torch.utils.tensorboard import SummaryWriter  # imports slowly: only where it is asked for

            self._board = SummaryWriter(str(tensorboard), purge_step=step + 1 if step else None)

    def line(self, text: str) -> None:
        """Write one line with the time to the log and the terminal."""
        if self._file is not None:
            stamped = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}"
            self._file.write(stamped + "\n")
            self._file.flush()
            print(stamped, flush=True)

    def scalars(self, values: dict[str, float], step: int, group: str) -> None:
        """Write scalars to TensorBoard as ``group/name``."""
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(f"{group}/{name}", value, step)

    def image(self, picture: Tensor, step: int) -> None:
        """Write a panel (3, H, W) to TensorBoard."""
        if self._board is not None:
            self._board.add_image("valid/lms_sr_gt_error", picture, step)

    def progress(self, position: float, note: str) -> None:
        """Move the bar to `position` epochs."""
        self._bar.update(position, note)

    def close(self) -> None:
        """Flush and close everything."""
        self._bar.__exit__(None, None, None)
        if self._board is not None:
            self._board.close()
        if self._file is not None:
            self._file.close()


def summary_table(rows: dict[str, str]) -> str:
    """Lay out the facts of a run at its start as aligned lines."""
    width = max(map(len, rows), default=0)
    return "\n".join(f"  {name:<{width}}  {value}" for name, value in rows.items())
