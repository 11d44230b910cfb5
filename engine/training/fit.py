"""The training loop: forward, loss, backward, step; periodically log, validate, save.

Everything it works with is built by the caller and passed in as a `Job`. Shapes: ms (B, C, h, w), lms and gt
(B, C, H, W), pan (B, P, H, W), float32 in [0, 1].

Exactness: a run that was stopped anywhere and resumed equals an uninterrupted one, bit for bit on a CPU. For this,
checkpoints lie between optimizer steps, the order of samples is a function of (seed, epoch), augmentation is one of
(seed, epoch, index), and the random generators of every rank are saved.
"""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from lemamba.engine.training import validate
from lemamba.engine.training.checkpoint import Checkpoints
from lemamba.engine.training.ema import EMA
from lemamba.engine.training.job import Job, Outcome, StopRequest, check
from lemamba.engine.training.logger import Logger, Running, summary_table
from lemamba.engine.training.nan_guard import (
    DeferredFlag,
    find_culprit,
    keep_buffers,
    parts_of,
    restore_buffers,
    save_batch,
    wrong_input,
)
from lemamba.engine.training.ranks import Ranks
from lemamba.engine.training.sampler import TrainSampler, build_loader, valid_batches, worker_error
from lemamba.engine.training.sharding import gather_all, is_sharded, is_zero, prepare, whole, whole_state
from lemamba.engine.training.state import Counters, capture, start
from lemamba.engine.weights.files import save_weights
from lemamba.metrics import Meter
from lemamba.reporting.live import LiveView, NotebookView
from lemamba.utils.config import to_dict, trackers
from lemamba.utils.errors import UserError
from lemamba.utils.progress import can_redraw, in_notebook

Batch = dict[str, Tensor]

_CULPRITS_SOUGHT = 10  # with `skip`, this many bad batches are examined and saved; later ones are only counted
# Fused, these skip a bad step on the GPU by themselves. Not SGD: if its first step is skipped, torch leaves its
# momentum uninitialised, and the next step adds whatever was in memory.
_DEFERRABLE = (torch.optim.Adam, torch.optim.AdamW)


def fit(job: Job, accelerator: Accelerator) -> Outcome:
    """Train until the epochs or the minutes are over, or a signal asks to stop.

    Raises:
        UserError: batch larger than the set, unknown best_metric, a checkpoint that does not fit, NaN under `stop`,
            or a final state that could not be saved.
    """
    with StopRequest() as stop:
        ranks = Ranks(job.config.train.rank_wait)
        try:
            trainer = Trainer(job, accelerator, stop, ranks)
            with closing(trainer.log):
                return trainer.run()
        except Exception as error:
            lost = ranks.explain(error)
            if lost is error:
                raise
            raise lost from error


class Trainer:
    """One training in one process. `run` is the loop, `step` one optimizer step; the rest is in order of use."""

    def __init__(self, job: Job, accelerator: Accelerator, stop: StopRequest, ranks: Ranks | None = None) -> None:
        self.job, self.accelerator, self.stop = job, accelerator, stop
        self.settings, self.ranks = job.config.train, ranks or Ranks(job.config.train.rank_wait)
        s, rank, world, data = self.settings, self.ranks.rank, self.ranks.world, job.config.data
        check(job, world)

        # this rank's part of both sets
        size, count, pin = s.batch_size, len(job.train_set), accelerator.device.type == "cuda"
        self.sampler = TrainSampler(count, size, rank=rank, world=world, seed=s.seed, shuffle=data.shuffle)
        self.train_loader = build_loader(job.train_set, self.sampler, data.num_workers, pin)
        batches = valid_batches(len(job.valid_set), data.val_batch_size or size, rank, world)
        self.valid_loader = build_loader(job.valid_set, batches, min(data.num_workers, 2), pin)

        # network, optimizer and EMA, new or as the checkpoint has them
        self.sharded = is_sharded(accelerator)
        self.model, self.optimizer = prepare(job, accelerator)
        self.core = accelerator.unwrap_model(self.model)  # the bare network
        self.ema = EMA(self.core, s.ema_decay, s.ema_warmup) if s.ema_decay else None
        self.counters = Counters()
        notes = start(self)
        self.checkpoints = Checkpoints(job.folder / "checkpoints", s.ckpt_max_limit)
        if self.ranks.main:
            self.checkpoints.recover()

        self.tracked = trackers(job.config.log)
        self.pictured = "tensorboard" in self.tracked
        self.log = Logger(
            job.folder,
            job.tensorboard if self.pictured else None,
            main=self.ranks.main,
            step=self.counters.step,
            view=self.live_view(),
            shown=job.on_progress is None,
            trackers=accelerator.trackers,
        )
        for text in ("training\n" + summary_table(job.facts), *notes):
            self.log.line(text)
        measured = ("loss", *validate.metric_names(job.config.log.log_metric))
        self.log.hyperparameters(job.settings, [f"valid/{name}" for name in measured])

        # "core": what other programs take from a shared machine is not counted; a GPU's time is the wall's
        cpu = accelerator.device.type == "cpu"
        self.clock = time.thread_time if s.clock == "core" and cpu else time.monotonic
        self.started = self.clock() - self.counters.seconds
        raw: Any = self.optimizer.optimizer
        fused = isinstance(raw, _DEFERRABLE) and bool(raw.defaults.get("fused"))
        self.deferred = fused and accelerator.scaler is None
        self.steps_alone = is_zero(raw)
        self.flag, self.previous = DeferredFlag(), list[Batch]()  # of the step before, read one step late
        self.running = Running()
        self.unaveraged = False  # a deferring optimizer has taken a step that is not in the EMA yet
        self.time_is_up = self.stopping = False
        self.last_look = self.counters.step  # at what the network says of itself
        self.scores: dict[str, float] = {}  # of the current weights, {} if they were not validated
        self.last_scores: dict[str, float] = {}  # of the last validation

    def live_view(self) -> LiveView | None:
        """Return the view for terminal or notebook, None where there is none, or it is not wanted or another rank's."""
        s = self.settings
        shown = self.job.config.log.live and self.ranks.main and self.job.on_progress is None
        if not shown or not (in_notebook() or can_redraw()):
            return None
        epochs = s.epochs if s.max_minutes is None else None
        return (NotebookView if in_notebook() else LiveView)(
            self.job.folder.name, epochs, s.best_metric, validate.minimised(s.best_metric)
        )

    # ------------------------------------------------------------------------------------------ the loop

    def run(self) -> Outcome:
        """Train to the end."""
        c, s = self.counters, self.settings
        while not self.time_is_up and c.epoch < s.epochs:
            # train on the rest of this epoch
            self.train_epoch()
            if self.stopping:
                return self.leave()
            complete = c.batch == len(self.sampler)
            last = self.time_is_up or (complete and c.epoch + 1 >= s.epochs)
            self.look_inside(last)

            # periodically, and always at the end: validate the averaged weights, all ranks take part
            if (last or (s.val_n_epoch and (c.epoch + 1) % s.val_n_epoch == 0)) and not self.validate():
                return self.leave()
            if complete:
                c.epoch, c.batch = c.epoch + 1, 0

            # periodically, and always at the end: save
            if last or (s.checkpoint_every_n and complete and c.epoch % s.checkpoint_every_n == 0):
                self.save(final=last)
        self.log.line(
            f"finished after {round(self.trained(), 2):g} epochs, {c.step} steps, {c.seconds / 60:.1f} min; "
            f"weights in {self.job.folder / 'weights'}"
        )
        return Outcome("finished", c, self.scores)

    def train_epoch(self) -> None:
        """Take the remaining steps of the current epoch; return early if time is up or a signal came."""
        c, s = self.counters, self.settings
        self.sampler.epoch, self.sampler.start = c.epoch, c.batch
        self.model.train()
        self.running.restart()
        group: list[Batch] = []
        for batch in self.batches():
            group.append(batch)
            if len(group) < s.grad_accum_steps and c.batch + len(group) < len(self.sampler):
                continue
            self.step(group)
            c.batch += len(group)
            group = []

            # periodically: read the losses (the only time the loop waits for the device) and log them
            if c.step % self.job.config.log.log_every == 0 or self.log.is_silent():
                self.report()

            # periodically: save in mid-epoch
            if s.checkpoint_every_steps and c.step % s.checkpoint_every_steps == 0 and c.batch < len(self.sampler):
                self.settle()
                self.save()
            if self.time_is_up or self.stopping:
                break
        self.report()
        self.settle()

    def batches(self) -> Iterator[Batch]:
        """Yield the remaining batches of the epoch, on the device."""
        if self.counters.batch >= len(self.sampler):
            return
        try:
            for batch in self.train_loader:
                yield {k: v.to(self.accelerator.device, non_blocking=True) for k, v in batch.items()}
        except UserError as error:
            raise worker_error(error) from None

    def step(self, group: list[Batch]) -> None:
        """Take one optimizer step; the gradient is the mean over the batches of `group`."""
        self.ranks.reach(f"step {self.counters.step + 1}")
        rate = self.job.schedule.apply(self.optimizer, self.position(), self.trained())

        # forward, loss, backward; processes average their gradients in the last batch only
        buffers = keep_buffers(self.core)
        losses: list[dict[str, Tensor]] = []
        for i, batch in enumerate(group, start=1):
            self.alive(f"step {self.counters.step + 1}, batch {i} of {len(group)}", ahead=i - 1)
            self.accelerator.sync_gradients = i == len(group)
            with nullcontext() if i == len(group) else self.accelerator.no_sync(self.model):
                sr = self.model(batch["ms"], batch["lms"], batch["pan"])
                parts = parts_of(self.job.loss, sr.float(), batch)
                self.accelerator.backward(self.steered(parts["total"]) / len(group))
            losses.append({name: value.detach() for name, value in parts.items()})

        # clip the gradient; no limit still gives its norm
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.settings.clip_norm or math.inf)
        norm = whole(norm) if isinstance(norm, Tensor) else norm

        # is everything finite? A fused optimizer skips a bad step by itself, and the flag is read a step later
        bad = ~torch.stack([parts["total"] for parts in losses]).isfinite().all()
        if norm is not None and self.accelerator.scaler is None:  # under fp16 an overflowing gradient is expected
            bad = bad | ~torch.as_tensor(norm, device=bad.device).detach().isfinite()
        if self.deferred:
            bad = self.ranks.any_on_device(bad)  # or the ranks' weights would part
            raw: Any = self.optimizer.optimizer
            raw.found_inf, raw.grad_scale = bad.float(), None
            wrong, culprits, self.previous = self.flag.put(bad), self.previous, group
        else:
            wrong, culprits = bool(bad), group

        # all ranks agree on a bad step, a signal and the time, in one small exchange
        seconds = self.clock() - self.started
        any_wrong, stop, self.counters.seconds = self.ranks.maximum(wrong, bool(self.stop.name), seconds)
        minutes, self.stopping = self.settings.max_minutes, bool(stop)
        self.time_is_up = minutes is not None and self.counters.seconds >= minutes * 60

        # step; the weights are still those of the step before, whose flag has just been read
        if self.deferred:
            restore_buffers(self.core, buffers, where=bad)
            self.average(taken=not any_wrong)
            self.optimizer.step()
            self.unaveraged = True
        else:
            if any_wrong:
                restore_buffers(self.core, buffers)
            self.take(skip=bool(any_wrong))
        self.optimizer.zero_grad()
        self.counters.step += 1
        self.scores = {}

        # means of the log: without what was skipped
        skipped = bad if self.deferred else torch.tensor(True) if any_wrong else None
        for parts, batch in zip(losses, group, strict=True):
            self.running.add(parts, samples=len(batch["gt"]) * self.ranks.world, skipped=skipped)
        self.running.add({"grad_norm": 0.0 if norm is None else norm}, skipped=skipped)
        self.running.add({"lr": rate})
        if any_wrong:
            self.not_finite(culprits)

    def steered(self, total: Tensor) -> Tensor:
        """Return a loss whose gradient is NaN if it is not finite itself, which that of l1 need not be.

        DeepSpeed steps in `backward`, before the ranks have agreed, and leaves the step out for a gradient only.
        """
        return total * torch.where(total.detach().isfinite(), 1.0, torch.nan) if self.steps_alone else total

    def take(self, skip: bool) -> None:
        """Let the optimizer take its step, unless `skip`, and average the weights if it did."""
        scaled = self.accelerator.scaler is not None
        if not skip or scaled:  # a scaler skips a bad step by itself, and must see it
            self.optimizer.step()
        if not skip and not (scaled and self.optimizer.step_was_skipped) and self.ema is not None:
            self.ema.update(self.core)

    def average(self, taken: bool) -> None:
        """Average the weights after the last step of a deferring optimizer, if there was one and it was `taken`."""
        if self.unaveraged and taken and self.ema is not None:
            self.ema.update(self.core)
        self.unaveraged = False

    def settle(self) -> None:
        """Finish the last step of a deferring optimizer: read its flag, average the weights; all ranks call it."""
        if not self.deferred:
            return
        wrong = bool(self.ranks.maximum(self.flag.put(None))[0])
        self.average(taken=not wrong)
        if wrong:
            self.not_finite(self.previous)

    def trained(self) -> float:
        """Return the epochs done, the current one by its share."""
        return self.counters.epoch + self.counters.batch / len(self.sampler)

    def position(self) -> float:
        """Return the position in the schedule, in epochs; under a time budget at least the used share of the time."""
        return self._position(self.trained(), self.counters.seconds)

    def _position(self, trained: float, seconds: float) -> float:
        minutes = self.settings.max_minutes
        if minutes is None:
            return trained
        used = seconds / max(minutes * 60, 1e-9)
        return max(trained, min(used, 1.0) * self.settings.epochs)

    def alive(self, doing: str, ahead: int = 0) -> None:
        """Move the view, and after a long silence log what is done now; `ahead` batches more than counted are done."""
        if self.log.has_view:
            trained = self.trained() + ahead / len(self.sampler)
            position = self._position(trained, self.clock() - self.started)
            self.log.move(position / self.settings.epochs, trained, "" if doing.startswith("step") else doing)
        if self.log.is_silent():
            self.log.line(f"epoch {self.counters.epoch + 1}/{self.settings.epochs} {doing}")

    def report(self) -> None:
        """Log the means since the last report."""
        if not self.running.samples:
            return
        c = self.counters
        values, speed = self.running.read()
        loop = {"samples_per_second": speed, "lr": values.pop("lr"), "grad_norm": values.pop("grad_norm")}
        if self.accelerator.device.type == "cuda":
            loop["gpu_memory_gib"] = torch.cuda.max_memory_allocated(self.accelerator.device) / 2**30
        text = " ".join(f"{n} {v:.5f}" for n, v in values.items())
        self.log.line(
            f"epoch {c.epoch + 1}/{self.settings.epochs} step {c.step} {text} lr {loop['lr']:.2e} "
            f"norm {loop['grad_norm']:.4f} {speed:.1f} samples/s"
        )
        self.record({"train": values, "loop": loop | {"skipped_steps": c.skipped}})
        self.log.move(self.position() / self.settings.epochs, self.trained())
        if self.job.on_progress is not None and self.ranks.main:
            self.job.on_progress(self.position() / self.settings.epochs, self.last_scores)

    def look_inside(self, last: bool) -> None:
        """Record what the averaged network says of itself in one pass, if it has `log_scalars`; all ranks call it.

        The pass is of one sample, at ends of epochs at least `log_every` steps apart, and at the end of the training.
        """
        log_scalars = getattr(self.core, "log_scalars", None)
        due = last or self.counters.step - self.last_look >= self.job.config.log.log_every
        if log_scalars is None or not self.tracked or not due:
            return
        self.last_look = self.counters.step
        sample = self.job.train_set[0, 0]  # always the same
        inputs = [sample[key][None].to(self.accelerator.device) for key in ("ms", "lms", "pan")]
        self.core.eval()
        # eager: hooks in the network must run, and a compiled one would be compiled once more
        with self.averaged(), torch.no_grad(), torch.compiler.set_stance("force_eager"):
            self.record(log_scalars(lambda: self.core(*inputs)))

    def averaged(self) -> AbstractContextManager[None]:
        """Return a context in which the network has the averaged weights, where there are any."""
        return self.ema.applied(self.core) if self.ema is not None else nullcontext()

    def record(self, groups: dict[str, dict[str, float]]) -> None:
        """Write values of this step to the curves, as ``group/name``."""
        named = {f"{group}/{name}": value for group, values in groups.items() for name, value in values.items()}
        self.log.values(named, step=self.counters.step, epoch=self.trained(), seconds=self.counters.seconds)

    def not_finite(self, group: list[Batch]) -> None:
        """Handle a skipped step: find the culprit, save the batch, then stop or continue."""
        c = self.counters
        c.skipped += 1
        message = f"step {c.step}: loss or gradient not finite"
        if c.skipped <= _CULPRITS_SOUGHT:
            message += f"; first: {self.examine(group)}"
        if self.settings.nan_policy == "stop":
            raise UserError(f"{message}; lower the learning rate, or skip such batches with --nan_policy skip")
        self.log.line(f"{message}; step skipped, {c.skipped} so far")

    def examine(self, group: list[Batch]) -> str:
        """Save this rank's bad batch and return what is first not finite on which rank; all ranks call it."""
        state = whole_state(self.core)
        with torch.random.fork_rng():
            found = [self.culprit(batch, state) for batch in group]
        worst = next((i for i, text in enumerate(found) if not text.startswith("not ")), 0)
        name = f"step_{self.counters.step:08d}_rank{{}}.safetensors"
        path = self.job.folder / "nan" / name.format(self.ranks.rank)
        save_batch(path, state, group[worst], self.meta() | {"step": self.counters.step, "culprit": found[worst]})
        texts = self.ranks.gather(found[worst])
        rank = next((i for i, text in enumerate(texts) if not text.startswith("not ")), self.ranks.rank)
        where = f"on rank {rank}, " if self.ranks.world > 1 else ""
        return f"{where}{texts[rank]}; reproduce with --replay {path.with_name(name.format(rank))}"

    def culprit(self, batch: Batch, state: Batch) -> str:
        """Return what is first not finite; without an exchange, as the other ranks may find theirs earlier."""
        if not self.sharded:
            return find_culprit(self.core, self.job.loss, batch)
        return wrong_input(batch, state) or "not in this rank's batch or the weights (--replay runs them again)"

    # ------------------------------------------------------------------------------------------ validating, saving

    def validate(self) -> bool:
        """Validate the averaged weights and save them if they are the best so far; False if a signal came instead."""
        if self.ranks.world > 1:  # batch-norm statistics differ, and the network that is saved is rank 0's
            for buffer in self.core.buffers():
                torch.distributed.broadcast(buffer, src=0)
        self.ranks.reach(f"the validation after step {self.counters.step}")
        meter, means, first = Meter(), {}, None
        with self.averaged():
            if self.job.measure is None:
                first = self.measure(meter)
            else:
                means = self.job.measure(self.core.eval())
        if self.ranks.maximum(bool(self.stop.name))[0]:
            return False  # resuming repeats the validation
        c, means = self.counters, means or {name: mean for name, (mean, _) in meter.compute().items()}
        self.scores = self.last_scores = means
        self.log.line(f"validation after epoch {c.epoch + 1}: " + " ".join(f"{n} {v:.5f}" for n, v in means.items()))
        self.record({"valid": means})
        if first is not None and self.ranks.main and self.pictured:
            self.log.picture(first, self.job.rgb, self.job.train_set.facts.divisor, c.step)
        value, smaller = means[self.settings.best_metric], validate.minimised(self.settings.best_metric)
        self.job.schedule.observe(value, smaller)
        better = c.best is None or (value < c.best if smaller else value > c.best)
        if not math.isfinite(value):
            self.log.line(
                f"note: {self.settings.best_metric} is {value}, so these weights cannot be the best: a network that "
                "diverges, or a band that is 0 in all of a ground truth (prepare_data.py inspect names it)"
            )
        elif better:
            c.best, c.best_epoch = value, c.epoch + 1
            self.write_weights("best")
        if self.job.on_progress is not None and self.ranks.main:
            self.job.on_progress(self.position() / self.settings.epochs, means)
        return True

    @torch.no_grad()
    def measure(self, meter: Meter) -> Batch | None:
        """Measure every sample of this rank once; return the first as {"lms", "pan", "sr", "gt"} (C, H, W)."""
        facts, every = self.job.train_set.facts, self.job.config.log.log_metric
        first: Batch | None = None
        done = 0
        self.core.eval()
        for batch in self.valid_loader:
            batch = {k: v.to(self.accelerator.device, non_blocking=True) for k, v in batch.items()}
            sr, gt = self.core(batch["ms"], batch["lms"], batch["pan"]).float(), batch["gt"]
            parts = [parts_of(self.job.loss, s[None], {"gt": g[None]}) for s, g in zip(sr, gt, strict=True)]
            totals = torch.stack([p["total"] for p in parts])
            meter.update({"loss": totals.double(), **validate.measure(sr, gt, facts, every=every)})
            first = first or {"lms": batch["lms"][0], "pan": batch["pan"][0], "sr": sr[0], "gt": gt[0]}
            done += 1
            self.alive(f"validating, {done} of {len(self.valid_loader)} batches")
            if self.stop.name and not self.sharded:  # sharded, the others would wait for this rank's forward passes
                break
        if self.sharded:
            self.fill_up(done)
        return first

    def fill_up(self, done: int) -> None:
        """Make as many forward passes as the rank with the most samples: sharded, each needs all ranks."""
        size = self.job.config.data.val_batch_size or self.settings.batch_size
        most = math.ceil(math.ceil(len(self.job.valid_set) / self.ranks.world) / size)
        if done < most:
            sample = self.job.valid_set[0, 0]  # this rank may have none of its own
            ms, lms, pan = (sample[key][None].to(self.accelerator.device) for key in ("ms", "lms", "pan"))
            for _ in range(done, most):
                self.core(ms, lms, pan)

    def meta(self) -> dict[str, Any]:
        """Return what a weight file holds next to its tensors."""
        c = self.counters
        progress = {"epoch": math.floor(self.trained()), "step": c.step, "minutes": round(c.seconds / 60, 3)}
        config = to_dict(self.job.config)
        return {**self.job.meta, "metrics": self.scores, "training": progress, "config": config}

    def write_weights(self, name: str) -> None:
        """Write weights/<name>.safetensors (averaged if there is an EMA) and the model card."""
        # all ranks gather
        state = gather_all(self.ema.state_dict(self.core)) if self.ema is not None else whole_state(self.core)
        path = self.job.folder / f"weights/{name}.safetensors"
        if self.ranks.main:
            self._guarded(lambda: save_weights(path, state, self.meta(), card=True))

    def save(self, final: bool = False) -> None:
        """Write weights/last and a checkpoint; a failure is an error only at the end (`final`)."""
        self.write_weights("last")
        tensors, state = capture(self)
        done = True
        if self.ranks.main:
            done = self._guarded(lambda: self.checkpoints.save(self.counters.step, tensors, state, self.meta()))
        if final and not self.ranks.share(done):
            raise UserError(f"the end of the training could not be saved in {self.job.folder}; free space and resume")
        self.ranks.barrier()

    def _guarded(self, write: Callable[[], Any]) -> bool:
        """Call `write` and return whether it succeeded; a full disk is logged, not fatal."""
        try:
            write()
            return True
        except OSError as error:
            good = self.checkpoints.latest()
            kept = f"the last good checkpoint is {good}" if good else "there is no checkpoint yet"
            self.log.line(f"WARNING: could not save at step {self.counters.step}: {error}; {kept}; training continues")
            return False

    def leave(self) -> Outcome:
        """Save after a signal and log the command that resumes."""
        self.save(final=True)
        reason = max(self.ranks.gather(self.stop.name))
        if self.job.on_progress is not None:  # another command trains, and says how it is resumed
            return Outcome(reason, self.counters, self.scores)
        self.log.line(
            f"stopped by {reason} at step {self.counters.step}, everything is saved; resume with: "
            f"{self.job.launch} --resume_path {shlex.quote(str(self.job.folder))}"
        )
        return Outcome(reason, self.counters, self.scores)
