"""Where a run speaks: train.log, the terminal, TensorBoard scalars and one image panel lms | sr | gt | error.

Only the main process writes; in the others every method does nothing.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from lemamba.reporting.pictures import quick_look
from lemamba.utils.progress import ProgressBar


def panel(lms: Tensor, sr: Tensor, gt: Tensor, rgb: Sequence[int]) -> np.ndarray:
    """Lay lms | sr | gt | error side by side: images (C, H, W) → picture (3, H, 4·W) uint8, as `quick_look` shows them.

    `rgb` are the 0-based bands for red, green, blue; the error is grey, white at a tenth of the range of gt.
    """
    images = {name: x.float().cpu().numpy() for name, x in (("lms", lms), ("sr", sr), ("gt", gt))}
    *shown, error = quick_look(images, rgb).values()
    grey = np.round(255 * error).astype(np.uint8)[..., None].repeat(3, axis=-1)
    return np.concatenate([*shown, grey], axis=1).transpose(2, 0, 1)


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

    def image(self, picture: np.ndarray, step: int) -> None:
        """Write a panel (3, H, W) uint8 to TensorBoard."""
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
