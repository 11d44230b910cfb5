"""The loop: exact resume, accumulation, clipping, bad numbers, signals, full disks."""

from __future__ import annotations

import json
import math
import os
import pty
import random
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_training
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from tiny_training import BANDS, L1, KeyedData, TinyNet, make_job

from lemamba import metrics
from lemamba.engine.training import validate
from lemamba.engine.training.checkpoint import Checkpoints, read_checkpoint
from lemamba.engine.training.fit import Trainer, fit
from lemamba.engine.training.job import StopRequest
from lemamba.engine.training.nan_guard import load_batch
from lemamba.engine.training.sampler import epoch_order
from lemamba.engine.training.state import generator_states, restore_generators, seed_all
from lemamba.engine.weights.files import read_weights
from lemamba.utils.errors import UserError
from lemamba.utils.facts import DataFacts

ROOT = Path(__file__).resolve().parent.parent
STEPS_PER_EPOCH = 3  # 11 samples, batch 2: 5 batches, accumulated by 2: steps of 2, 2 and 1 batches


def train(folder, *flags, stop_after=None, resume=False, **parts):
    """Train in `folder`; with `stop_after`, ask to stop as SIGTERM would in that step of this session."""
    job = make_job(folder, *flags, resume=resume, **parts)
    return tiny_training.train(job, Accelerator(cpu=True), stop_after)


def final_state(folder):
    """Everything the last checkpoint holds, without what depends on the clock."""
    tensors, state = read_checkpoint(Checkpoints(folder / "log/p/run/checkpoints").latest())
    state["counters"].pop("seconds")
    state["config"].pop("log")
    return tensors, {k: state[k] for k in ("counters", "schedule", "optimizer", "ema_updates", "generators", "step")}


def assert_same(one, two):
    for part, tensors in one[0].items():
        assert tensors.keys() == two[0][part].keys()
        for name, tensor in tensors.items():
            assert torch.equal(tensor, two[0][part][name]), f"{part} {name}"
    assert one[1] == two[1]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    outcome = train(folder)
    return folder, outcome, final_state(folder)


@pytest.mark.parametrize("split", range(1, 3 * STEPS_PER_EPOCH))
def test_a_stopped_run_equals_the_uninterrupted_one_bit_for_bit(tmp_path, undisturbed, split):
    # every split point: after one batch pair, in mid-epoch, at the end of an epoch before its validation
    assert train(tmp_path, stop_after=split).reason == "SIGTERM"
    assert train(tmp_path, resume=True).reason == "finished"
    assert_same(final_state(tmp_path), undisturbed[2])
    best, last = (load_file(tmp_path / f"log/p/run/weights/{n}.safetensors") for n in ("best", "last"))
    for name, expected in (("best", best), ("last", last)):
        theirs = load_file(undisturbed[0] / f"log/p/run/weights/{name}.safetensors")
        assert all(torch.equal(theirs[k], v) for k, v in expected.items())


def test_resume_is_exact_with_workers_and_agrees_with_none(tmp_path, undisturbed):
    assert train(tmp_path, "--num_worker", "2", stop_after=4).reason == "SIGTERM"
    train(tmp_path, "--num_worker", "2", resume=True)
    assert_same(final_state(tmp_path), undisturbed[2])


@pytest.mark.parametrize("flags", [["--schedule", "plateau", "--optimizer", "sgd"], ["--optimizer", "lion"]])
def test_resume_is_exact_for_other_optimizers_and_schedules(tmp_path, flags):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    train(tmp_path / "a", *flags)
    train(tmp_path / "b", *flags, stop_after=5)
    train(tmp_path / "b", *flags, resume=True)
    assert_same(final_state(tmp_path / "b"), final_state(tmp_path / "a"))


def test_every_generator_continues_where_it_was():
    """Python's, NumPy's and torch's, with the second normal number that the first two keep in store."""

    def draw():
        return [
            f() for f in (random.random, lambda: random.gauss(0, 1), np.random.normal, lambda: torch.rand(1).item())
        ]

    seed_all(3)
    draw()
    states = json.loads(json.dumps(generator_states(torch.device("cpu"))))
    expected = [draw() for _ in range(2)]
    seed_all(4)
    restore_generators(states, torch.device("cpu"))
    assert [draw() for _ in range(2)] == expected


def test_resume_continues_in_the_epoch_where_it_was_not_in_the_first(tmp_path, undisturbed):
    train(tmp_path, stop_after=STEPS_PER_EPOCH + 1)
    _, state = final_state(tmp_path)
    assert (state["counters"]["epoch"], state["counters"]["batch"], state["step"]) == (1, 2, 4)
    outcome = train(tmp_path, resume=True)
    assert outcome.counters.step == undisturbed[1].counters.step == 9


def test_another_batch_size_continues_at_the_same_share_of_the_epoch(tmp_path):
    """2 of 5 batches of 2 are 4 of 11 batches of 1: the schedule continues where it was, and the log says so."""
    train(tmp_path, stop_after=1)
    job, positions = make_job(tmp_path, "-b", "1", resume=True), []
    original = job.schedule.apply
    job.schedule.apply = lambda optimizer, at, trained: positions.append(at) or original(optimizer, at, trained)
    assert fit(job, Accelerator(cpu=True)).counters.epoch == 3
    assert positions[:3] == pytest.approx([4 / 11, 6 / 11, 8 / 11])
    assert "batch_size 2 -> 1" in (job.folder / "train.log").read_text()


def test_a_finished_run_that_is_resumed_stays_as_it_is(tmp_path, undisturbed):
    train(tmp_path)
    train(tmp_path, resume=True)
    assert_same(final_state(tmp_path), undisturbed[2])


@pytest.mark.parametrize("clip", [0.05, None])
def test_one_optimizer_step_per_accumulation_equals_one_large_batch(tmp_path, clip):
    """Against plain torch: the mean over all samples of a step, one (clipped) SGD step per accumulation.

    The last step of the epoch has one batch only. Clipped gradients would not show by what they were divided.
    """
    flags = ["--optimizer", "sgd", "--schedule", "constant", "-e", "1", "--clip_norm", str(clip).lower(), "--set"]
    flags += ["train.ema_decay=null", "--weight_decay", "0"]
    model = TinyNet(drop=0.0, norm=False)
    start = {k: v.clone() for k, v in model.state_dict().items()}
    data = KeyedData(11)
    train(tmp_path, *flags, model=model, train=data)

    reference = TinyNet(drop=0.0, norm=False)
    reference.load_state_dict(start)
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.01, momentum=0.9)
    order = epoch_order(11, seed=5, epoch=0)
    for indices in (order[:4], order[4:8], order[8:10]):
        samples = [data[(0, i)] for i in indices]
        batch = {k: torch.stack([s[k] for s in samples]) for k in samples[0]}
        optimizer.zero_grad()
        L1()(reference(batch["ms"], batch["lms"], batch["pan"]), batch["gt"])["total"].backward()
        if clip:
            assert torch.nn.utils.clip_grad_norm_(reference.parameters(), clip) > clip
        optimizer.step()
    for name, value in reference.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("flags", "steps"),
    [
        (("--checkpoint_every_n", "1"), [3, 6, 9]),
        (("--checkpoint_every_n", "2"), [6, 9]),
        (("--checkpoint_every_n", "0"), [9]),
        (("--checkpoint_every_n", "0", "--checkpoint_every_steps", "2"), [2, 4, 8, 9]),  # 6 is the end of an epoch
        (("--checkpoint_every_n", "1", "--ckpt_max_limit", "2"), [6, 9]),
    ],
)
def test_checkpoints_come_when_asked_for_and_always_at_the_end(tmp_path, flags, steps):
    train(tmp_path, *flags)
    found = Checkpoints(tmp_path / "log/p/run/checkpoints").list()
    assert [int(path.name.removeprefix("step_")) for path in found] == steps


@pytest.mark.parametrize(("every", "epochs"), [(1, [1, 2, 3]), (2, [2, 3]), (0, [3])])
def test_validations_come_when_asked_for_and_always_at_the_end(tmp_path, every, epochs):
    train(tmp_path, "--val_n_epoch", str(every))
    log = (tmp_path / "log/p/run/train.log").read_text()
    assert [int(n) for n in re.findall(r"validation after epoch (\d+)", log)] == epochs


def test_clipping_sees_the_whole_gradient_once_per_step(tmp_path, monkeypatch):
    norms = []
    original = Accelerator.clip_grad_norm_

    def clip(self, parameters, max_norm, norm_type=2):
        norms.append((self.sync_gradients, max_norm))
        return original(self, parameters, max_norm, norm_type)

    monkeypatch.setattr(Accelerator, "clip_grad_norm_", clip)
    train(tmp_path, "-e", "1")
    assert norms == [(True, 1.0)] * STEPS_PER_EPOCH


def test_validation_and_saved_weights_are_the_averaged_ones(tmp_path, undisturbed):
    folder = undisturbed[0] / "log/p/run"
    tensors, _ = undisturbed[2]
    state, meta = read_weights(folder / "weights/last.safetensors")
    assert all(torch.equal(state[k], tensors["ema"][k]) for k in state)
    assert not torch.equal(state["first.weight"], tensors["model"]["first.weight"])
    assert meta["model"] == {"name": "TinyNet", "args": {}}
    model = TinyNet()
    model.load_state_dict(state)
    model.eval()
    valid = KeyedData(3, seed=9)
    psnr = []
    for i in range(3):
        s = {k: v[None] for k, v in valid[(0, i)].items()}
        with torch.no_grad():
            error = model(s["ms"], s["lms"], s["pan"]).double().clamp(0, 1) - s["gt"].double()
            psnr.append(-10 * error.square().mean((0, 2, 3)).log10().mean())
    assert undisturbed[1].metrics["psnr"] == pytest.approx(float(sum(psnr) / 3), rel=1e-6)


@pytest.mark.parametrize("every", [False, True])
def test_validation_measures_what_would_be_delivered(every):
    """In digital numbers, clipped to the sensor's range as inference clips: a bright overshoot costs nothing."""
    gt = torch.rand(2, 4, 64, 64, generator=torch.Generator().manual_seed(0))
    gt[:, :, :8, :8] = 1
    sr = (gt + 0.01 * torch.randn(gt.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    over = torch.where(sr == 1, 1.7, torch.where(sr == 0, -0.3, sr))
    facts = DataFacts(sensor="none", divisor=2047, ratio=4, bands=4, guide_bands=1)
    values = validate.measure(over, gt, facts, every=every)
    delivered = metrics.reduced_resolution(sr.double() * 2047, gt.double() * 2047, ratio=4, const=2047)
    assert set(values) == set(validate.metric_names(every))
    for name, value in values.items():
        torch.testing.assert_close(value, delivered[name], rtol=1e-12, atol=0)


def test_an_ema_switched_on_when_resuming_starts_from_the_restored_weights(tmp_path):
    """With next to no memory the average is the weights of the last step, in the checkpoint and for users."""
    train(tmp_path, "--set", "train.ema_decay=null", stop_after=4)
    train(tmp_path, "--set", "train.ema_decay=1e-9", "--set", "train.ema_warmup=false", resume=True)
    tensors, _ = final_state(tmp_path)
    users, _ = read_weights(tmp_path / "log/p/run/weights/last.safetensors")
    for name in ("first.weight", "last.bias"):
        torch.testing.assert_close(tensors["ema"][name], tensors["model"][name], rtol=1e-5, atol=1e-6)
        assert torch.equal(users[name], tensors["ema"][name])


def test_time_budget_ends_the_run_with_a_validation_and_weights(tmp_path):
    outcome = train(tmp_path, "-e", "100000", "--max_minutes", "0.02", "--set", "schedule.per_epoch=false")
    assert outcome.reason == "finished" and "psnr" in outcome.metrics
    assert outcome.counters.epoch < 100000
    assert (tmp_path / "log/p/run/weights/best.safetensors").is_file()


def test_core_clock_counts_the_loop_s_own_time(tmp_path, monkeypatch):
    """A budget of 3.5 s under a clock that moves one second per step: wall time plays no part."""
    ticks = iter(range(10_000))
    monkeypatch.setattr("lemamba.engine.training.fit.time.thread_time", lambda: float(next(ticks)))
    line = ("-e", "100", "--max_minutes", str(3.5 / 60), "--set", "train.clock=core")
    outcome = train(tmp_path, *line)
    assert (outcome.counters.step, outcome.counters.seconds) == (4, 4.0)


def test_a_time_budget_squeezes_the_schedule_into_itself(tmp_path, monkeypatch):
    """Four of 3.5 seconds, one a step: the rate runs through the cosine of all 100 epochs."""
    ticks = iter(range(10_000))
    monkeypatch.setattr("lemamba.engine.training.fit.time.thread_time", lambda: float(next(ticks)))
    line = ("-e", "100", "--max_minutes", str(3.5 / 60), "--set", "train.clock=core")
    job = make_job(tmp_path, *line, "--set", "schedule.per_epoch=false")
    positions, original = [], job.schedule.apply
    job.schedule.apply = lambda optimizer, at, trained: positions.append(at) or original(optimizer, at, trained)
    fit(job, Accelerator(cpu=True))
    assert positions == pytest.approx([0, 100 / 3.5, 200 / 3.5, 300 / 3.5])


@pytest.mark.parametrize(
    ("metric", "values", "best", "epoch"),
    [
        ("psnr", (30.0, 32.0, 31.0), 32.0, 2),
        ("ergas", (3.0, 2.0, 2.5), 2.0, 2),
        ("psnr", (math.nan, 29.0, math.inf), 29.0, 2),
        ("loss", (0.1, 0.2, 0.3), None, None),  # measured by the loop itself, whatever the metric function says
    ],
)
def test_the_best_weights_are_those_of_the_best_validation(tmp_path, monkeypatch, metric, values, best, epoch):
    """Larger is better for PSNR, smaller for ERGAS and the loss, and what is not finite is never the best."""
    job = make_job(tmp_path, "--best_metric", metric)
    measured = iter(v for v in values for _ in range(2))  # three validation samples are two batches

    def measure(sr, gt, facts, every):
        return dict.fromkeys(("psnr", "ergas"), torch.full((len(sr),), next(measured)))

    monkeypatch.setattr(validate, "measure", measure)
    outcome = fit(job, Accelerator(cpu=True))
    _, meta = read_weights(job.folder / "weights/best.safetensors")
    assert meta["training"]["epoch"] == outcome.counters.best_epoch
    assert meta["metrics"][metric] == outcome.counters.best
    if best is None:
        losses = re.findall(r"validation after .*? loss ([\d.]+)", (job.folder / "train.log").read_text())
        assert outcome.counters.best == pytest.approx(min(map(float, losses)), abs=1e-5)
    else:
        assert (outcome.counters.best, outcome.counters.best_epoch) == (best, epoch)
    told = re.findall(
        r"note: psnr is (\w+), so these weights cannot be the best", (job.folder / "train.log").read_text()
    )
    assert told == [str(value) for value in values if not math.isfinite(value)]


@pytest.mark.parametrize("where", ["data", "module"])
def test_stop_policy_names_the_first_offender_and_keeps_the_batch(tmp_path, where):
    if where == "data":
        parts, expected = {"train": KeyedData(11, nan_at=3)}, 'batch["ms"]: 1 NaN'  # made from the spoiled gt
    else:

        class Exploding(torch.nn.Module):
            def forward(self, x):
                return x / 0.0

        model = TinyNet()
        model.drop = Exploding()
        parts, expected = {"model": model}, 'module "drop" (Exploding)'
    with pytest.raises(UserError) as error:
        train(tmp_path, **parts)
    assert expected in str(error.value)
    saved = next((tmp_path / "log/p/run/nan").glob("*.safetensors"))
    batch, state, meta = load_batch(saved)
    assert batch["gt"].shape[1] == BANDS and "first.weight" in state and meta["culprit"] in str(error.value)
    if where == "data":
        assert not batch["gt"].isfinite().all()


def test_skip_policy_skips_the_step_and_counts_it(tmp_path):
    model = TinyNet(norm=False)
    outcome = train(tmp_path, "--nan_policy", "skip", train=KeyedData(11, nan_at=3), model=model)
    appearances = sum(3 in epoch_order(11, seed=5, epoch=e)[:10] for e in range(3))
    assert outcome.counters.skipped == appearances > 0
    assert all(p.isfinite().all() for p in model.parameters())
    assert "step skipped" in (tmp_path / "log/p/run/train.log").read_text()
    _, state = final_state(tmp_path)
    assert state["ema_updates"] == outcome.counters.step - appearances, "nor does the average take such a step"


@pytest.mark.parametrize("fused", ["true", "false"])
def test_a_skipped_step_leaves_running_statistics_as_they_were(tmp_path, fused):
    """Also the batches that were accumulated before the one with a NaN, and with the flag that is read a step later."""
    flags = ["--nan_policy", "skip", "--set", f"optimizer.args.fused={fused}", "--set", "train.ema_decay=0.9"]
    job = make_job(tmp_path, *flags, train=KeyedData(11, nan_at=3))
    with StopRequest() as stop:
        trainer = Trainer(job, Accelerator(cpu=True), stop)
        assert trainer.deferred == (fused == "true")
        step, changed = trainer.step, []

        def watched(group):
            before = {name: buffer.clone() for name, buffer in trainer.core.named_buffers()}
            step(group)
            bad = not all(value.isfinite().all() for batch in group for value in batch.values())
            same = [torch.equal(buffer, before[name]) for name, buffer in trainer.core.named_buffers()]
            assert same == [bad] * 3, "mean, variance and number of batches"
            changed.extend([] if bad else group)

        trainer.step = watched
        outcome = trainer.run()
        trainer.log.close()
    assert 0 < outcome.counters.skipped < outcome.counters.step
    written = load_file(job.folder / "weights/last.safetensors")
    assert all(value.isfinite().all() for value in written.values())
    assert written["norm.num_batches_tracked"] == len(changed)


@pytest.mark.parametrize("name", ["adamw", "adam"])
def test_fused_optimizers_skip_bad_steps_by_themselves_and_the_flag_comes_a_step_later(tmp_path, name):
    """What runs on a GPU, where the loop must not wait for the flag; fused optimizers do the same on a CPU."""
    flags = ["--nan_policy", "skip", "--optimizer", name, "--set", "optimizer.args.fused=true"]
    ends = []
    for folder, deferred in ((tmp_path / "deferred", True), (tmp_path / "direct", False)):
        model = TinyNet(norm=False)
        torch.nn.init.constant_(model.first.weight, 0.1)
        job = make_job(folder, *flags, train=KeyedData(11, nan_at=3), model=model)
        with StopRequest() as stop:
            trainer = Trainer(job, Accelerator(cpu=True), stop)
            trainer.deferred = deferred
            outcome = trainer.run()
            trainer.log.close()
        ends.append((outcome.counters.skipped, [p.detach().clone() for p in model.parameters()]))
    appearances = sum(3 in epoch_order(11, seed=5, epoch=e)[:10] for e in range(3))
    assert ends[0][0] == ends[1][0] == appearances > 0
    assert all(a.isfinite().all() for a in ends[0][1])


def test_bf16_follows_float32_within_two_percent_over_200_steps(tmp_path):
    curves = []
    for precision in ("no", "bf16"):
        AcceleratorState._reset_state(reset_partial_state=True)
        job = make_job(tmp_path / precision, "-e", "67", "--mixed_precision", precision, "--checkpoint_every_n", "0")
        assert fit(job, Accelerator(cpu=True, mixed_precision=precision)).counters.step == 201
        log = (job.folder / "train.log").read_text()
        curves.append([float(x) for x in re.findall(r"validation after .*? loss ([\d.]+)", log)])
    AcceleratorState._reset_state(reset_partial_state=True)
    assert len(curves[0]) == 67 and curves[0] != curves[1]
    assert curves[1] == pytest.approx(curves[0], rel=0.02)


def test_full_disk_keeps_the_last_good_checkpoint_and_says_so(tmp_path, monkeypatch):
    original, calls = Checkpoints.save, []

    def save(self, step, *rest):
        calls.append(step)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return original(self, step, *rest)

    monkeypatch.setattr(Checkpoints, "save", save)
    assert train(tmp_path).reason == "finished"
    log = (tmp_path / "log/p/run/train.log").read_text()
    assert "No space left on device" in log and "last good checkpoint" in log


def test_batch_larger_than_the_set_and_unknown_best_metric_are_one_line(tmp_path):
    with pytest.raises(UserError, match="smaller -b"):
        train(tmp_path, "-b", "12")
    with pytest.raises(UserError, match="best_metric"):
        train(tmp_path, "--best_metric", "ssim")


@pytest.mark.parametrize("name", ["SIGTERM"])
def test_a_real_signal_saves_and_exits_0_with_the_command_to_resume(tmp_path, name):
    command = [sys.executable, str(ROOT / "tests/tiny_training.py"), str(tmp_path), "-e", "100000"]
    run = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": "."})
    for line in run.stdout:
        if "validation" in line:
            run.send_signal(getattr(signal, name))
            break
    output = run.stdout.read()
    assert run.wait(timeout=60) == 0
    assert f"stopped by {name}" in output and "--resume_path" in output
    assert Checkpoints(tmp_path / "log/p/run/checkpoints").latest() is not None


def test_a_closed_terminal_saves_as_sigterm_does(tmp_path):
    """A real one: the training's terminal goes away, which sends SIGHUP and makes printing fail."""
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(ROOT)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored
        command = [sys.executable, str(ROOT / "tests/tiny_training.py"), str(tmp_path), "-e", "100000"]
        os.execve(sys.executable, command, {**os.environ, "PYTHONPATH": "."})
    shown = b""
    while b"validation" not in shown:
        shown += os.read(terminal, 4096)
    os.close(terminal)
    _, status = os.waitpid(process, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    log = (tmp_path / "log/p/run/train.log").read_text()
    assert "stopped by SIGHUP" in log and "--resume_path" in log.splitlines()[-1]
    assert Checkpoints(tmp_path / "log/p/run/checkpoints").latest() is not None


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP"])
def test_these_signals_ask_to_stop(name):
    number = getattr(signal, name)
    before = signal.signal(number, signal.SIG_DFL)  # the tests themselves may run under nohup or in the background
    try:
        with StopRequest() as stop:
            signal.raise_signal(number)
            assert stop.name == name
    finally:
        signal.signal(number, before)


def test_under_nohup_a_closed_terminal_changes_nothing():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert stop.name == ""
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_in_a_validation_ends_it_and_resuming_repeats_it(tmp_path, monkeypatch, undisturbed):
    job, measured = make_job(tmp_path), []
    original = validate.measure
    with StopRequest() as stop, monkeypatch.context() as patch:

        def measure(sr, gt, facts, every):
            measured.append(len(sr))
            if len(measured) == 3:  # two batches a validation: the first of the second one
                stop.name = "SIGTERM"
            return original(sr, gt, facts, every=every)

        patch.setattr(validate, "measure", measure)
        trainer = Trainer(job, Accelerator(cpu=True), stop)
        assert trainer.run().reason == "SIGTERM" and len(measured) == 3
        trainer.log.close()
    assert "validation after epoch 2" not in (job.folder / "train.log").read_text()
    assert train(tmp_path, resume=True).reason == "finished"
    assert (job.folder / "train.log").read_text().count("validation after epoch 2") == 1
    assert_same(final_state(tmp_path), undisturbed[2])


def test_a_second_signal_stops_at_once():
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.name == "SIGINT"
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_fit_restores_signal_handlers(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    fit(make_job(tmp_path, "-e", "1"), Accelerator(cpu=True))
    assert signal.getsignal(signal.SIGTERM) is before
