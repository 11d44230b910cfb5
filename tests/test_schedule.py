"""Schedules against closed forms and against torch's own, and independence of the number of processes."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lemamba.engine.training.schedule import SHAPES, Schedule
from lemamba.utils.config import ScheduleConfig
from lemamba.utils.errors import UserError


def make(name, epochs=100.0, **args):
    return Schedule(ScheduleConfig(name, **args), base_lr=1e-3, epochs=epochs)


def torch_rates(scheduler_class, epochs, **args):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1e-3)
    scheduler = scheduler_class(optimizer, **args)
    rates = []
    for _ in range(epochs):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_cos_anneal_is_torchs():
    theirs = torch_rates(torch.optim.lr_scheduler.CosineAnnealingLR, 100, T_max=100, eta_min=8e-5)
    assert [make("cos_anneal").rate(e) for e in range(100)] == pytest.approx(theirs, rel=1e-9)


def test_cos_anneal_restart_is_torchs():
    theirs = torch_rates(torch.optim.lr_scheduler.CosineAnnealingWarmRestarts, 400, T_0=50, T_mult=2, eta_min=8e-5)
    assert [make("cos_anneal_restart").rate(e) for e in range(400)] == pytest.approx(theirs, rel=1e-9)


def test_multi_step_is_torchs():
    theirs = torch_rates(torch.optim.lr_scheduler.MultiStepLR, 100, milestones=[20, 60], gamma=0.3)
    ours = make("multi_step", milestones=(20, 60), gamma=0.3)
    assert [ours.rate(e) for e in range(100)] == pytest.approx(theirs, rel=1e-9)


def test_restart_reduce_starts_each_period_lower():
    s = make("cos_anneal_restart_reduce", epochs=800)
    for restart, epoch in enumerate((0, 50, 150, 350, 750)):
        assert s.rate(epoch) == pytest.approx(1e-3 * 0.9**restart)
    assert s.rate(25) == pytest.approx((1e-3 + 8e-5) / 2)
    assert s.rate(49.9) == s.rate(49)  # stepped per epoch, as released


def test_plateau_waits_for_its_patience_and_survives_json():
    s = make("plateau", patience=1, gamma=0.5, eta_min=0)
    for value in (3.0, 2.0, 2.0):
        s.observe(value, minimise=True)
    assert s.rate(0) == 1e-3
    again = make("plateau", patience=1, gamma=0.5, eta_min=0)
    again.state = json.loads(json.dumps(s.state))
    again.observe(float("nan"), minimise=True)
    assert again.rate(0) == 5e-4
    again.observe(1.0, minimise=True)
    assert again.state["best"] == 1.0


@pytest.mark.parametrize("first", [math.nan, -math.inf, math.inf])
def test_a_first_validation_that_is_not_finite_is_not_the_best_for_ever(first):
    s = make("plateau", patience=5)
    for value in (first, 3.0):
        s.observe(value, minimise=True)
    assert s.state["best"] == 3.0 and s.state["bad"] == 0


def test_an_epoch_reached_by_adding_fractions_has_begun():
    s = make("cos_anneal")
    assert 0.7 + 0.2 + 0.1 < 1
    assert s.rate(0.7 + 0.2 + 0.1) == s.rate(1) < s.rate(0.99) == s.rate(0)


def test_plateau_knows_metrics_that_grow():
    s = make("plateau", patience=0, gamma=0.5)
    for value in (30.0, 31.0, 32.0):
        s.observe(value, minimise=False)
    assert s.rate(0) == 1e-3
    s.observe(31.0, minimise=False)
    assert s.rate(0) == 5e-4


@pytest.mark.parametrize("name", SHAPES)
def test_warm_up_is_linear_and_joins_the_shape(name):
    plain, warm = make(name, per_epoch=False), make(name, per_epoch=False, warmup=5)
    for trained in (0.0, 1.25, 4.999):
        factor = 0.01 + 0.99 * trained / 5
        assert warm.rate(trained) == pytest.approx(plain.rate(trained) * factor)
    assert warm.rate(5.0) == plain.rate(5.0)


@pytest.mark.parametrize("name", SHAPES)
@given(position=st.floats(0, 100), samples=st.sampled_from([64, 96, 1000]))
def test_rates_depend_on_epochs_only_and_stay_in_bounds(name, position, samples):
    s = make(name, per_epoch=False)
    assert 8e-5 * (1 - 1e-9) <= s.rate(position) <= 1e-3 * (1 + 1e-9)
    # one process with batch 8 and four with batch 2 reach the same position after the same samples
    one, four = samples // 8, samples // (4 * 2)
    assert s.rate(position + 1 / one) == s.rate(position + 1 / four)


def test_a_time_budget_squeezes_the_curve_but_not_the_warm_up():
    s = make("cos_anneal", warmup=2, per_epoch=False)
    assert s.rate(50, trained=3) == pytest.approx((1e-3 + 8e-5) / 2)
    assert s.rate(50, trained=1) == pytest.approx((1e-3 + 8e-5) / 2 * (0.01 + 0.99 / 2))
    assert math.isclose(s.rate(100, trained=7), 8e-5)


def test_wrong_schedules_are_one_line():
    with pytest.raises(UserError, match='did you mean "cos_anneal"'):
        make("cos_aneal")
    with pytest.raises(UserError, match="warmup"):
        make("constant", warmup=100)
    with pytest.raises(UserError, match="T0"):
        make("cos_anneal_restart", T0=0)
