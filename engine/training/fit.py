"""The training loop: forward, loss, backward, step; once in a while log, validate, save.

Everything it works with is built by the caller and handed over in a `Job`. Shapes: ms (B, C, h, w), lms and gt
(B, C, H, W), pan (B, P, H, W), float32 in [0, 1].

Exactness: a run that was stopped anywhere and resumed equals the one that was not, bit for bit on a CPU. Hence
checkpoints lie between optimizer steps, the order of samples is a function of (seed, epoch), augmentation one of
(seed, epoch, index), and the generators of every rank are kept.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from lemamba.engine.training.checkpoint import Checkpoints
from lemamba.engine.training.job import Job, Outcome
from lemamba.engine.training.logger import Logger, panel, summary_table
from lemamba.engine.training.nan_guard import DeferredFlag, find_culprit, save_batch
from lemamba.engine.training.ranks import Ranks
from lemamba.engine.training.running import Running
from lemamba.engine.training.sampler import TrainSampler, build_loader, valid_batches, worker_error
from lemamba.engine.training.session import Session
from lemamba.engine.training.signals import StopRequest
from lemamba.engine.training.state import Counters
from lemamba.engine.training.validate import Interrupted, minimised, validate
from lemamba.engine.weights.files import save_weights
from lemamba.utils.errors import UserError

_CULPRITS_SOUGHT = 10  # under `skip`, so many bad batches are looked into and saved; later ones are only counted
# Fused, these skip a step on the GPU itself. Not SGD: if its first step is skipped, torch leaves its momentum
# uninitialised, and the next step adds what happened to lie in memory.
_DEFERRABLE = (torch.optim.Adam, torch.optim.AdamW)


def check(job: Job, world: int) -> None:
    """Raise a `UserError` for what can be seen before anything is written: sizes of the sets, the metric's name."""
    settings = job.config.train
    known = ("loss", *job.metric_names)
    if settings.best_metric not in known:
        raise UserError(
            f"--best_metric: expected one of {', '.join(known)}, given {settings.best_metric!r} "
            "(--log_metric adds more)"
        )
    if len(job.valid_set) == 0:
        raise UserError("expected at least one validation sample, the validation set is empty; simulate one")
    TrainSampler(len(job.train_set), settings.batch_size, rank=0, world=world, seed=settings.seed)  # fits the batch?


def fit(job: Job, accelerator: Accelerator) -> Outcome:
    """Train until the epochs or the minutes are over, or a signal asks to stop; see `Job`.

    Raises:
        UserError: batch larger than the set, unknown best_metric, a checkpoint that does not fit, NaN under `stop`.
    """
    with StopRequest() as stop:
        trainer = Trainer(job, accelerator, stop)
        try:
            return trainer.run()
        finally:
            trainer.log.close()


class Trainer:
    """One training in one process. `run` is the loop; the other methods are its blocks."""

    def __init__(self, job: Job, accelerator: Accelerator, stop: StopRequest) -> None:
        self.job, self.accelerator, self.stop = job, accelerator, stop
        self.settings, self.ranks, self.device = job.config.train, Ranks(), accelerator.device
        check(job, self.ranks.world)
        self._open_data()
        self.counters, self.running = Counters(), Running()
        self.session = Session(job, accelerator, self.ranks, self.counters)
        self.model, self.core = self.session.model, self.session.core
        self.optimizer, self.ema = self.session.optimizer, self.session.ema
        notes = self.session.start(self.sampler)
        self.checkpoints = Checkpoints(job.folder / "checkpoints", self.settings.ckpt_max_limit)
        if self.ranks.main:
            self.checkpoints.recover()
        self._open_log(notes)
        # "core": what other programs take from a shared machine is not counted; a GPU's time is the wall's
        self.clock = time.thread_time if self.settings.clock == "core" and self.device.type == "cpu" else time.monotonic
        self.started = self.clock() - self.counters.seconds
        self.flag, self.previous = DeferredFlag(), []
        raw = self.session.raw_optimizer
        fused = isinstance(raw, _DEFERRABLE) and bool(raw.defaults.get("fused"))
        self.deferred = fused and self.device.type == "cuda" and accelerator.scaler is None
        self.time_is_up, self.stop_agreed = False, False
        self.results: dict[str, float] = {}
        self.measured = -1  # the step at which they were

    def _open_data(self) -> None:
        """Make the loaders of this rank's parts of both sets."""
        data, size = self.job.config.data, self.settings.batch_size
        rank, world = self.ranks.rank, self.ranks.world
        pin = self.device.type == "cuda"
        self.sampler = TrainSampler(
            len(self.job.train_set), size, rank=rank, world=world, seed=self.settings.seed, shuffle=data.shuffle
        )
        self.train_loader = build_loader(self.job.train_set, self.sampler, data.num_workers, pin)
        count, size = len(self.job.valid_set), data.val_batch_size or size
        batches = valid_batches(count, size, rank, world)
        self.valid_loader = build_loader(self.job.valid_set, batches, min(data.num_workers, 2), pin)
        self.valid_rounds = math.ceil(math.ceil(count / world) / size)  # of the rank with the most samples

    def _open_log(self, notes: list[str]) -> None:
        """Open log and TensorBoard; begin with the table of facts and what `Session.start` had to say."""
        board = self.job.tensorboard if self.job.config.log.logger_on else None
        step, epochs = self.counters.step, self.settings.epochs
        self.log = Logger(self.job.folder, board, main=self.ranks.main, step=step, epochs=epochs)
        self.log.line("training\n" + summary_table(self.job.facts))
        for note in notes:
            self.log.line(note)

    # ------------------------------------------------------------------------------------------ the loop

    def run(self) -> Outcome:
        """Train to the end."""
        while not self.finished():
            # the batches that are left of this epoch
            self.train_epoch()
            if self.stop_agreed:
                return self.leave()

            # once in a while, and always at the end: validate on the averaged weights, all ranks take part
            c, complete = self.counters, self.counters.batch == len(self.sampler)
            last = self.time_is_up or (complete and c.epoch + 1 >= self.settings.epochs)
            every = self.settings.val_n_epoch
            if last or (every and (c.epoch + 1) % every == 0):
                try:
                    self.validate()
                except Interrupted:
                    return self.leave()
            if complete:
                c.epoch, c.batch = c.epoch + 1, 0

            # once in a while, and always at the end: save
            every = self.settings.checkpoint_every_n
            if last or (every and complete and c.epoch % every == 0):
                self.save(final=last)
        self.log.line(
            f"finished after {round(self.trained(), 2):g} epochs, {self.counters.step} steps, "
            f"{self.counters.seconds / 60:.1f} min; weights in {self.job.folder / 'weights'}"
        )
        return Outcome("finished", self.counters, self.results)

    def finished(self) -> bool:
        """Tell whether epochs or minutes are over."""
        return self.time_is_up or self.counters.epoch >= self.settings.epochs

    def trained(self) -> float:
        """Epochs done, the present one by its share."""
        return self.counters.epoch + self.counters.batch / len(self.sampler)

    def position(self) -> float:
        """Where the schedule stands, in epochs; under a time budget at least the share of the time that is used."""
        position = self.trained()
        if self.settings.max_minutes is not None:
            used = self.counters.seconds / max(self.settings.max_minutes * 60, 1e-9)
            position = max(position, min(used, 1.0) * self.settings.epochs)
        return position

    def train_epoch(self) -> None:
        """Take the steps that are left of the present epoch; return early when time is up or a signal came."""
        c, accumulate = self.counters, self.settings.grad_accum_steps
        self.sampler.epoch, self.sampler.start = c.epoch, c.batch
        self.model.train()
        self.running.restart()
        group: list[dict[str, Tensor]] = []
        for batch in self.batches():
            group.append(batch)
            if len(group) < accumulate and c.batch + len(group) < len(self.sampler):
                continue
            self.step(group)
            c.batch += len(group)
            group = []

            # once in a while: read the losses (the only time the loop waits for the device) and tell
            if c.step % self.job.config.log.log_every == 0:
                self.tell()

            # once in a while: save in mid-epoch
            every = self.settings.checkpoint_every_steps
            if every and c.step % every == 0 and c.batch < len(self.sampler):
                self.save()
            if self.time_is_up or self.stop_agreed:
                break
        self.tell()
        if self.deferred and self.ranks.maximum(self.flag.put(None))[0]:
            self.not_finite(self.previous)

    def batches(self) -> Iterator[dict[str, Tensor]]:
        """Yield what is left of the epoch, on the device; an error in a loader process keeps its one line."""
        if self.counters.batch >= len(self.sampler):
            return
        try:
            for batch in self.train_loader:
                yield {k: v.to(self.device, non_blocking=True) for k, v in batch.items()}
        except UserError as error:
            raise worker_error(error) from None

    def step(self, group: list[dict[str, Tensor]]) -> None:
        """Take one optimizer step over the batches of `group`, each counted by its share."""
        rate = self.job.schedule.apply(self.optimizer, self.position(), self.trained())
        total = self.backward(group)
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.settings.clip_norm or math.inf)
        bad = ~total.isfinite()
        if norm is not None and self.accelerator.scaler is None:  # under fp16 an overflowing gradient is expected
            bad = bad | ~torch.as_tensor(norm, device=self.device).detach().isfinite()
        if self.deferred:
            raw = self.session.raw_optimizer
            raw.found_inf, raw.grad_scale = bad.float(), None  # a fused optimizer leaves a bad step out by itself
            wrong, culprits, self.previous = self.flag.put(bad), self.previous, group
        else:
            wrong, culprits = bool(bad), group
        wrong = self.agree(wrong)
        taken = self.deferred or not wrong
        if taken or self.accelerator.scaler is not None:  # a scaler leaves a bad step out itself, and must see it
            self.optimizer.step()
        if taken and self.ema is not None:
            self.ema.update(self.core)
        self.optimizer.zero_grad()
        self.counters.step += 1
        self.running.add({"grad_norm": 0.0 if norm is None else norm, "lr": rate})
        if wrong:
            self.not_finite(culprits)

    def backward(self, group: list[dict[str, Tensor]]) -> Tensor:
        """Run every batch forward and backward, so that gradients add up; return the loss of the last one."""
        for i, batch in enumerate(group):
            last = i == len(group) - 1
            # gradients meet those of the other ranks only in the last batch of a step
            self.accelerator.gradient_state._set_sync_gradients(last)
            with self.accelerator.no_sync(self.model) if not last else nullcontext():
                sr = self.model(batch["ms"], batch["lms"], batch["pan"])
                parts = self.job.loss(sr.float(), batch["gt"])
                self.accelerator.backward(parts["total"] / len(group))
            self.running.add(parts, samples=len(sr) * self.ranks.world)
        return parts["total"].detach()

    def agree(self, wrong: bool) -> bool:
        """Let all ranks agree on a bad number, a signal and the time; one small exchange per step."""
        seconds = self.clock() - self.started
        wrong_any, stop, self.counters.seconds = self.ranks.maximum(wrong, bool(self.stop.name), seconds)
        budget = self.settings.max_minutes
        self.time_is_up = budget is not None and self.counters.seconds >= budget * 60
        self.stop_agreed = bool(stop)
        return bool(wrong_any)

    # ------------------------------------------------------------------------------------------ telling

    def tell(self) -> None:
        """Log the means since the last time."""
        if not self.running.samples:
            return
        c, loop = self.counters, {}
        values, loop["samples_per_second"] = self.running.read()
        loop |= {name: values.pop(name) for name in ("lr", "grad_norm")}
        text = " ".join(f"{n} {v:.5f}" for n, v in values.items())
        self.log.line(
            f"epoch {c.epoch + 1}/{self.settings.epochs} step {c.step} {text} lr {loop['lr']:.2e} "
            f"norm {loop['grad_norm']:.4f} {loop['samples_per_second']:.1f} samples/s"
        )
        self.log.scalars(values, c.step, "train")
        self.log.scalars(loop | {"skipped_steps": c.skipped}, c.step, "loop")
        self.log.progress(self.position(), f"loss {values['total']:.5f}")

    def not_finite(self, group: list[dict[str, Tensor]]) -> None:
        """Deal with a step that was left out: find the culprit, save the batch, stop or go on."""
        c = self.counters
        c.skipped += 1
        told = f"step {c.step}: loss or gradient not finite"
        if c.skipped <= _CULPRITS_SOUGHT:
            with torch.random.fork_rng():
                found = [find_culprit(self.core, self.job.loss, b) for b in group]
            worst = next((i for i, text in enumerate(found) if "not reproduced" not in text), 0)
            path = self.job.folder / "nan" / f"step_{c.step:08d}_rank{self.ranks.rank}.safetensors"
            meta = self.meta() | {"step": c.step, "culprit": found[worst]}
            save_batch(path, self.core, group[worst], meta)
            told += f"; first: {found[worst]}; see it again with --replay {path}"
        if self.settings.nan_policy == "stop":
            raise UserError(f"{told}; lower the rate, or go on past such batches with --nan_policy skip")
        self.log.line(f"{told}; step left out, {c.skipped} so far")

    # ------------------------------------------------------------------------------------------ validating, saving

    def validate(self) -> None:
        """Measure the averaged weights, keep them if they are the best so far."""
        self.session.share_buffers()
        with self.ema.applied(self.core) if self.ema is not None else nullcontext():
            means, first = validate(
                self.core,
                self.valid_loader,
                self.job.loss,
                self.job.metrics,
                self.job.make_meter(),
                self.device,
                rounds=self.valid_rounds if self.session.sharded else 0,
                interrupted_anywhere=lambda: bool(self.ranks.maximum(bool(self.stop.name))[0]),
                interrupted_here=lambda: bool(self.stop.name),
            )
        c, self.results, self.measured = self.counters, means, self.counters.step
        self.log.line(f"validation after epoch {c.epoch + 1}: " + " ".join(f"{n} {v:.5f}" for n, v in means.items()))
        self.log.scalars(means, c.step, "valid")
        if first is not None and self.ranks.main and self.job.config.log.logger_on:
            self.log.image(panel(first["lms"], first["sr"], first["gt"], self.job.rgb), c.step)
        value, smaller = means[self.settings.best_metric], minimised(self.settings.best_metric)
        self.job.schedule.observe(value, smaller)
        better = c.best is None or (value < c.best if smaller else value > c.best)
        if math.isfinite(value) and better:
            c.best, c.best_epoch = value, c.epoch + 1
            self.write_weights("best")

    def meta(self) -> dict[str, Any]:
        """Return what stands in a weight file beside the tensors; scores only where these weights were measured."""
        results = self.results if self.measured == self.counters.step else {}
        return self.session.meta(results, math.floor(self.trained()))

    def write_weights(self, name: str) -> None:
        """Write weights/<name>.safetensors and the model card; a full disk is told, not fatal."""
        state, path = self.session.user_weights(), self.job.folder / f"weights/{name}.safetensors"
        if self.ranks.main:
            self._guarded(lambda: save_weights(path, state, self.meta(), card=True))

    def save(self, final: bool = False) -> None:
        """Write weights/last and a checkpoint; on a full disk the last good checkpoint stays, and that is said."""
        self.write_weights("last")
        tensors, state = self.session.capture(len(self.sampler))
        done = True
        if self.ranks.main:
            done = self._guarded(lambda: self.checkpoints.save(self.counters.step, tensors, state, self.meta()))
        if final and not self.ranks.share(done):
            raise UserError(f"the end of the training could not be saved in {self.job.folder}; free space and resume")
        self.ranks.barrier()

    def _guarded(self, write: Callable[[], Any]) -> bool:
        try:
            write()
            return True
        except OSError as error:
            good = self.checkpoints.latest()
            kept = f"the last good checkpoint is {good}" if good else "there is no checkpoint yet"
            self.log.line(f"WARNING: could not save at step {self.counters.step}: {error}; {kept}; going on")
            return False

    def leave(self) -> Outcome:
        """Save after a signal and say how to go on."""
        self.save(final=True)
        reason = max(self.ranks.gather(self.stop.name))
        launch = f"torchrun --nproc_per_node {self.ranks.world}" if self.ranks.world > 1 else "python"
        self.log.line(
            f"stopped by {reason} at step {self.counters.step}, everything is saved; go on with: "
            f"{launch} accelerate_main.py --resume_path {self.job.folder}"
        )
        return Outcome(reason, self.counters, self.results)
