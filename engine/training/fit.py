"""The training loop: forward, loss, backward, step; periodically log, validate, save.

Everything it works with is built by the caller and passed in as a `Job`. Shapes: ms (B, C, h, w), lms and gt
(B, C, H, W), pan (B, P, H, W), float32 in [0, 1].

Exactness: a run that was stopped anywhere and resumed equals an uninterrupted one, bit for bit on a CPU. For this,
checkpoints lie between optimizer steps, the order of samples is a function of (seed, epoch), augmentation is one of
(seed, epoch, index), and the random generators of every rank are saved.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import DistributedType
from torch import Tensor, nn

from lemamba.engine.training import validate
from lemamba.engine.training.checkpoint import Checkpoints
from lemamba.engine.training.ema import EMA
from lemamba.engine.training.job import Job, Outcome, StopRequest, check
from lemamba.engine.training.logger import Logger, Running, panel, summary_table
from lemamba.engine.training.nan_guard import DeferredFlag, find_culprit, save_batch
from lemamba.engine.training.ranks import Ranks
from lemamba.engine.training.sampler import TrainSampler, build_loader, valid_batches, worker_error
from lemamba.engine.training.state import Counters, capture, gather_all, start
from lemamba.engine.weights.files import save_weights
from lemamba.metrics import Meter
from lemamba.utils.config import to_dict
from lemamba.utils.errors import UserError

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
        trainer = Trainer(job, accelerator, stop)
        try:
            return trainer.run()
        finally:
            trainer.log.close()


def prepare(job: Job, accelerator: Accelerator) -> tuple[nn.Module, AcceleratedOptimizer]:
    """Return network and optimizer as accelerate wraps them for DDP, FSDP2 or DeepSpeed; FSDP1 is a `UserError`."""
    kind, settings = accelerator.distributed_type, job.config.train
    if kind == DistributedType.FSDP and not accelerator.is_fsdp2:
        raise UserError(
            "FSDP version 1 flattens parameters, so EMA and checkpoints cannot name them; set fsdp_version: 2 in "
            "the accelerate configuration, as configs/huggingface/fsdp.yaml does"
        )
    if kind == DistributedType.DEEPSPEED:  # one source of truth: our configuration
        plugin = accelerator.state.deepspeed_plugin.deepspeed_config
        plugin["train_micro_batch_size_per_gpu"] = settings.batch_size
        plugin["gradient_accumulation_steps"] = 1  # the loop accumulates
        plugin["gradient_clipping"] = settings.clip_norm or 0.0
    return accelerator.prepare(job.model, job.optimizer)


class Trainer:
    """One training in one process. `run` is the loop, `step` one optimizer step; the rest is in order of use."""

    def __init__(self, job: Job, accelerator: Accelerator, stop: StopRequest) -> None:
        self.job, self.accelerator, self.stop = job, accelerator, stop
        self.settings, self.ranks = job.config.train, Ranks()
        s, rank, world, data = self.settings, self.ranks.rank, self.ranks.world, job.config.data
        check(job, world)

        # this rank's part of both sets
        size, count, pin = s.batch_size, len(job.train_set), accelerator.device.type == "cuda"
        self.sampler = TrainSampler(count, size, rank=rank, world=world, seed=s.seed, shuffle=data.shuffle)
        self.train_loader = build_loader(job.train_set, self.sampler, data.num_workers, pin)
        batches = valid_batches(len(job.valid_set), data.val_batch_size or size, rank, world)
        self.valid_loader = build_loader(job.valid_set, batches, min(data.num_workers, 2), pin)

        # network, optimizer and EMA, new or as the checkpoint has them
        self.model, self.optimizer = prepare(job, accelerator)
        self.core = accelerator.unwrap_model(self.model)  # the bare network
        self.ema = EMA(self.core, s.ema_decay, s.ema_warmup) if s.ema_decay else None
        self.counters = Counters()
        notes = start(self)
        self.checkpoints = Checkpoints(job.folder / "checkpoints", s.ckpt_max_limit)
        if self.ranks.main:
            self.checkpoints.recover()

        board = job.tensorboard if job.config.log.logger_on else None
        self.log = Logger(job.folder, board, main=self.ranks.main, step=self.counters.step, epochs=s.epochs)
        for text in ("training\n" + summary_table(job.facts), *notes):
            self.log.line(text)

        # "core": what other programs take from a shared machine is not counted; a GPU's time is the wall's
        cpu = accelerator.device.type == "cpu"
        self.clock = time.thread_time if s.clock == "core" and cpu else time.monotonic
        self.started = self.clock() - self.counters.seconds
        raw: Any = self.optimizer.optimizer
        fused = isinstance(raw, _DEFERRABLE) and bool(raw.defaults.get("fused"))
        self.deferred = fused and accelerator.device.type == "cuda" and accelerator.scaler is None
        self.flag, self.previous = DeferredFlag(), list[Batch]()  # of the step before, read one step late
        self.running = Running()
        self.time_is_up = self.stopping = False
        self.scores: dict[str, float] = {}  # of the current weights, {} if they were not validated

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
            if c.step % self.job.config.log.log_every == 0:
                self.report()

            # periodically: save in mid-epoch
            if s.checkpoint_every_steps and c.step % s.checkpoint_every_steps == 0 and c.batch < len(self.sampler):
                self.save()
            if self.time_is_up or self.stopping:
                break
        self.report()
        if self.deferred and self.ranks.maximum(self.flag.put(None))[0]:
            self.not_finite(self.previous)

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
        rate = self.job.schedule.apply(self.optimizer, self.position(), self.trained())

        # forward, loss, backward; processes average their gradients in the last batch only
        for i, batch in enumerate(group, start=1):
            self.accelerator.sync_gradients = i == len(group)
            with nullcontext() if i == len(group) else self.accelerator.no_sync(self.model):
                sr = self.model(batch["ms"], batch["lms"], batch["pan"])
                parts = self.job.loss(sr.float(), batch["gt"])
                self.accelerator.backward(parts["total"] / len(group))
            self.running.add(parts, samples=len(sr) * self.ranks.world)

        # clip the gradient; no limit still gives its norm
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.settings.clip_norm or math.inf)

        # is everything finite? A fused optimizer on a GPU skips a bad step by itself, and the flag is read a step later
        bad = ~parts["total"].detach().isfinite()
        if norm is not None and self.accelerator.scaler is None:  # under fp16 an overflowing gradient is expected
            bad = bad | ~torch.as_tensor(norm, device=bad.device).detach().isfinite()
        if self.deferred:
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

        # step
        taken = self.deferred or not any_wrong
        if taken or self.accelerator.scaler is not None:  # a scaler skips a bad step by itself, and must see it
            self.optimizer.step()
        if taken and self.ema is not None:
            self.ema.update(self.core)
        self.optimizer.zero_grad()
        self.counters.step += 1
        self.scores = {}
        self.running.add({"grad_norm": 0.0 if norm is None else norm, "lr": rate})
        if any_wrong:
            self.not_finite(culprits)

    def trained(self) -> float:
        """Return the epochs done, the current one by its share."""
        return self.counters.epoch + self.counters.batch / len(self.sampler)

    def position(self) -> float:
        """Return the position in the schedule, in epochs; under a time budget at least the used share of the time."""
        position, minutes = self.trained(), self.settings.max_minutes
        if minutes is not None:
            used = self.counters.seconds / max(minutes * 60, 1e-9)
            position = max(position, min(used, 1.0) * self.settings.epochs)
        return position

    def report(self) -> None:
        """Log the means since the last report."""
        if not self.running.samples:
            return
        c = self.counters
        values, speed = self.running.read()
        loop = {"samples_per_second": speed, "lr": values.pop("lr"), "grad_norm": values.pop("grad_norm")}
        text = " ".join(f"{n} {v:.5f}" for n, v in values.items())
        self.log.line(
            f"epoch {c.epoch + 1}/{self.settings.epochs} step {c.step} {text} lr {loop['lr']:.2e} "
            f"norm {loop['grad_norm']:.4f} {speed:.1f} samples/s"
        )
        self.log.scalars(values, c.step, "train")
        self.log.scalars(loop | {"skipped_steps": c.skipped}, c.step, "loop")
        self.log.progress(self.position(), f"loss {values['total']:.5f}")

    def not_finite(self, group: list[Batch]) -> None:
        """Handle a skipped step: find the culprit, save the batch, then stop or continue."""
        c = self.counters
        c.skipped += 1
        message = f"step {c.step}: loss or gradient not finite"
        if c.skipped <= _CULPRITS_SOUGHT:
            with torch.random.fork_rng():
                found = [find_culprit(self.core, self.job.loss, b) for b in group]
            worst = next((i for i, text in enumerate(found) if "not reproduced" not in text), 0)
            path = self.job.folder / "nan" / f"step_{c.step:08d}_rank{self.ranks.rank}.safetensors"
            save_batch(path, self.core, group[worst], self.meta() | {"step": c.step, "culprit": found[worst]})
            message += f"; first: {found[worst]}; reproduce with --replay {path}"
        if self.settings.nan_policy == "stop":
            raise UserError(f"{message}; lower the learning rate, or skip such batches with --nan_policy skip")
        self.log.line(f"{message}; step skipped, {c.skipped} so far")

    # ------------------------------------------------------------------------------------------ validating, saving

    def validate(self) -> bool:
        """Validate the averaged weights and save them if they are the best so far; False if a signal came instead."""
        if self.ranks.world > 1:  # batch-norm statistics differ, and the network that is saved is rank 0's
            for buffer in self.core.buffers():
                torch.distributed.broadcast(buffer, src=0)
        meter = Meter()
        with self.ema.applied(self.core) if self.ema is not None else nullcontext():
            first = self.measure(meter)
        if self.ranks.maximum(bool(self.stop.name))[0]:
            return False  # resuming repeats the validation
        c, means = self.counters, {name: mean for name, (mean, _) in meter.compute().items()}
        self.scores = means
        self.log.line(f"validation after epoch {c.epoch + 1}: " + " ".join(f"{n} {v:.5f}" for n, v in means.items()))
        self.log.scalars(means, c.step, "valid")
        if first is not None and self.ranks.main and self.job.config.log.logger_on:
            self.log.image(panel(first["lms"], first["sr"], first["gt"], self.job.rgb), c.step)
        value, smaller = means[self.settings.best_metric], validate.minimised(self.settings.best_metric)
        self.job.schedule.observe(value, smaller)
        better = c.best is None or (value < c.best if smaller else value > c.best)
        if math.isfinite(value) and better:
            c.best, c.best_epoch = value, c.epoch + 1
            self.write_weights("best")
        return True

    @torch.no_grad()
    def measure(self, meter: Meter) -> Batch | None:
        """Measure every sample of this rank once; return the first as {"lms", "sr", "gt"} (C, H, W)."""
        facts, every = self.job.train_set.facts, self.job.config.log.log_metric
        first: Batch | None = None
        done, batch = 0, None
        sharded = self.accelerator.distributed_type == DistributedType.FSDP
        self.core.eval()
        for batch in self.valid_loader:
            batch = {k: v.to(self.accelerator.device, non_blocking=True) for k, v in batch.items()}
            sr, gt = self.core(batch["ms"], batch["lms"], batch["pan"]).float(), batch["gt"]
            totals = torch.stack([self.job.loss(s[None], g[None])["total"] for s, g in zip(sr, gt, strict=True)])
            meter.update({"loss": totals.double(), **validate.measure(sr, gt, facts, every=every)})
            first = first or {"lms": batch["lms"][0], "sr": sr[0], "gt": gt[0]}
            done += 1
            if self.stop.name and not sharded:  # sharded, the others would wait for this rank's forward passes
                break
        if sharded and batch is not None:
            # a forward pass needs all ranks: each makes as many as the one with the most samples
            size = self.job.config.data.val_batch_size or self.settings.batch_size
            most = math.ceil(math.ceil(len(self.job.valid_set) / self.ranks.world) / size)
            for _ in range(done, most):
                self.core(batch["ms"], batch["lms"], batch["pan"])
        return first

    def meta(self) -> dict[str, Any]:
        """Return what a weight file holds next to its tensors."""
        c = self.counters
        progress = {"epoch": math.floor(self.trained()), "step": c.step, "minutes": round(c.seconds / 60, 3)}
        config = to_dict(self.job.config)
        return {**self.job.meta, "metrics": self.scores, "training": progress, "config": config}

    def write_weights(self, name: str) -> None:
        """Write weights/<name>.safetensors (averaged if there is an EMA) and the model card."""
        state = self.ema.state_dict(self.core) if self.ema is not None else self.core.state_dict()
        state, path = gather_all(state), self.job.folder / f"weights/{name}.safetensors"  # all ranks gather
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
        launch = f"torchrun --nproc_per_node {self.ranks.world}" if self.ranks.world > 1 else "python"
        self.log.line(
            f"stopped by {reason} at step {self.counters.step}, everything is saved; resume with: "
            f"{launch} accelerate_main.py --resume_path {self.job.folder}"
        )
        return Outcome(reason, self.counters, self.scores)
