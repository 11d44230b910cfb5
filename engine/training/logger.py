"""Run logging: train.log, the terminal, curves (metrics.jsonl, TensorBoard, other trackers), one picture a validation.

Only the main process writes; in the others every method of `Logger` does nothing.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from lemamba.engine.training.curves import PICTURE_TAG, Curves, read_curves
from lemamba.reporting.live import LiveView
from lemamba.reporting.pictures import Stretch, panel_row, quick_look

LINE_EVERY = 25.0  # seconds; with steps of up to 5 s, the log has a line at least every 30 s


class Tracker(Protocol):
    """A tracker of accelerate (wandb, mlflow, trackio)."""

    name: str

    def log(self, values: dict[str, Any], step: int | None) -> None:
        """Store values of a step."""


class Running:
    """Means of losses between two log lines, and samples per second.

    Sums stay on the device: reading them is the only time the loop waits for it.
    """

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Clear the sums and restart the clock."""
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, Tensor | int] = {}
        self.samples, self._clock = 0, time.monotonic()

    def add(self, values: Mapping[str, Tensor | float], samples: int = 0, *, skipped: Tensor | None = None) -> None:
        """Add the scalars of one batch or step; nothing is read from the device.

        Args:
            values: name and scalar.
            samples: that they are of; these count for the speed also in a skipped step.
            skipped: scalar boolean; where true, the values are left out of the means. None = false.
        """
        for name, value in values.items():
            value = value.detach().float() if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)
            one: Tensor | int = 1
            if skipped is not None:
                one = (~skipped).to(value.device)
                value = torch.where(one, value, torch.zeros_like(value))
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + one
        self.samples += samples

    def read(self) -> tuple[dict[str, float], float]:
        """Return the means (NaN where all was skipped) and the samples per second since the last call, and restart."""
        counts = {name: int(count) for name, count in self._counts.items()}
        means = {n: float(total) / counts[n] if counts[n] else math.nan for n, total in self._sums.items()}
        rate = self.samples / max(time.monotonic() - self._clock, 1e-9)
        self.restart()
        return means, rate


class Logger:
    """Log of one run.

    Args:
        folder: the run's folder; ``train.log`` is appended there.
        tensorboard: folder of the TensorBoard files, None = none.
        main: False silences it.
        step: step at which the run is resumed; what a killed run wrote to the curves beyond it is removed.
        view: shown below the lines on the terminal, None = nothing is.
        shown: False writes to the files alone: nothing to the terminal.
        trackers: accelerate's, already started; one that fails is named and dropped.
    """

    def __init__(
        self,
        folder: Path,
        tensorboard: Path | None,
        *,
        main: bool,
        step: int,
        view: LiveView | None = None,
        shown: bool = True,
        trackers: Sequence[Tracker] = (),
    ) -> None:
        self._shown = shown
        self._open = ExitStack()
        self._file = self._open.enter_context((folder / "train.log").open("a", encoding="utf-8")) if main else None
        self._curves = Curves(folder, step) if main else None
        self._trackers = list(trackers) if main else []
        self._last_line = time.monotonic()
        self._board: Any = None
        if main and tensorboard is not None:
            from torch.utils.tensorboard import SummaryWriter  # slow to import

            self._board = SummaryWriter(str(tensorboard), purge_step=step + 1 if step else None)
            self._open.callback(self._board.close)
        self._stretch: Stretch | None = None
        self._view = view if main else None
        if self._view is not None:
            for row in read_curves(folder):  # of the sessions before this one
                self._view.add({k: v for k, v in row.items() if "/" in k}, step=row["step"], epoch=row["epoch"])
            self._open.enter_context(self._view)

    def line(self, text: str) -> None:
        """Write a line with the time to the log and the terminal."""
        if self._file is None:
            return
        stamped = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}"
        self._file.write(stamped + "\n")
        self._file.flush()
        self._last_line = time.monotonic()
        if self._shown:
            try:
                print(stamped, flush=True)
            except OSError:  # the terminal was closed, or the program that read us: train.log has everything
                self._shown = False
                sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115  # or Python fails once more when it ends

    @property
    def has_view(self) -> bool:
        """Whether a live view is shown."""
        return self._view is not None

    def is_silent(self) -> bool:
        """Return whether it is time for a line, because the last one is `LINE_EVERY` seconds old."""
        return self._file is not None and time.monotonic() - self._last_line >= LINE_EVERY

    def hyperparameters(self, settings: Mapping[str, Any], metrics: Sequence[str]) -> None:
        """Write the settings to TensorBoard's page of hyperparameters, which shows the last values of `metrics`."""
        if self._board is not None:
            from torch.utils.tensorboard.summary import hparams

            plain = {k: v if isinstance(v, bool | int | float | str) else str(v) for k, v in settings.items()}
            experiment, start, _ = hparams(plain, dict.fromkeys(metrics, 0.0))
            for summary in (experiment, start):
                self._board.file_writer.add_summary(summary)

    def values(self, values: Mapping[str, float], *, step: int, epoch: float, seconds: float) -> None:
        """Write values of a step, named ``group/name``, to all curves."""
        if self._view is not None:
            self._view.add(values, step=step, epoch=epoch)
        if self._curves is not None:
            self._curves.add(values, step=step, epoch=epoch, seconds=seconds)
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)
        for tracker in list(self._trackers):
            try:
                tracker.log({**values, "epoch": epoch}, step=step)
            except Exception as error:  # a server that is gone must not end a training
                self._trackers.remove(tracker)
                self.line(f"WARNING: {tracker.name} failed ({error}); it gets no more values, training continues")

    def picture(self, images: Mapping[str, Tensor], rgb: Sequence[int], divisor: float, step: int) -> None:
        """Write lms | pan | sr | gt | error side by side to TensorBoard, in the brightness of the first picture.

        Args:
            images: lms, pan, sr, gt of one sample, (C, H, W) in [0, 1].
            rgb: 0-based bands shown as red, green, blue.
            divisor: digital numbers of the value 1, the unit of the error's scale; 1 = no digital numbers.
            step: of the validation.
        """
        if self._board is None:
            return
        arrays = {name: image.float().cpu().numpy() for name, image in images.items()}
        self._stretch = self._stretch or Stretch.of(arrays["gt"], rgb)
        unit = "1 = full range" if divisor == 1 else "digital numbers"
        end, label = self._stretch.error * divisor, f"|sr - gt|, mean over bands, {unit}"
        picture = panel_row(quick_look(arrays, rgb, self._stretch), end, label)
        self._board.add_image(PICTURE_TAG, picture, step, dataformats="HWC")

    def move(self, share: float, trained: float, doing: str = "") -> None:
        """Show the share of the training that is done, the epochs trained, and what is being done."""
        if self._view is not None:
            self._view.move(share, trained, doing)

    def close(self) -> None:
        """Flush and close everything."""
        self._open.close()
        if not self._shown and self._view is not None:  # the view has put the stream of the closed terminal back
            sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115


def summary_table(rows: Mapping[str, str]) -> str:
    """Format the facts of a run as aligned lines; a value may have several lines."""
    width = max(map(len, rows), default=0)
    further = "\n" + " " * (width + 4)
    return "\n".join(f"  {name:<{width}}  {value.replace(chr(10), further)}" for name, value in rows.items())
