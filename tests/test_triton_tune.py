"""Choosing how the Triton kernels are cut: measured once with a timer, kept, never needed for the same result."""

from __future__ import annotations

import json

import pytest
import torch

from lemamba.model.ops.triton import tune as triton_tune
from lemamba.model.ops.triton.plan import Config, Shape, candidates, chunk_length, fits, heuristic, steps

pytest.importorskip("triton", reason="triton is not installed (requirements-dev.txt)")

MAP = Shape(2, 4, 64, 32, 2, 4096, True, True, False, False)
WINDOWS = Shape(2048, 4, 64, 16, 2, 64, True, True, False, False)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LEMAMBA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(triton_tune, "_CHOSEN", {})
    monkeypatch.setattr(triton_tune, "processors", lambda: 132)
    return tmp_path / "cache"


class Clock:
    """A timer by which one configuration is the fastest; counts what it is asked."""

    def __init__(self, best: Config) -> None:
        self.best, self.ran, self.last = best, [], None

    def run(self, config: Config) -> None:
        self.last = config
        self.ran.append(config)

    def __call__(self, run) -> float:
        run()
        return 1.0 if self.last == self.best else 2.0


def test_the_fastest_candidate_is_kept_and_not_measured_again(cache, monkeypatch):
    best = candidates(MAP, 132)[-1]
    clock = Clock(best)
    assert triton_tune.choose(MAP, clock.run, clock) == best
    assert set(clock.ran) == set(candidates(MAP, 132))
    (path,) = cache.iterdir()
    assert list(json.loads(path.read_text()).values()) == [[best.RN, best.RD, best.chunks, best.merge, best.PW]]
    count = len(clock.ran)
    assert triton_tune.choose(MAP, clock.run, clock) == best
    monkeypatch.setattr(triton_tune, "_CHOSEN", {})  # another process
    assert triton_tune.choose(MAP, clock.run, clock) == best
    assert len(clock.ran) == count


def test_classes_are_apart(cache):
    first, second = Clock(candidates(MAP, 132)[-1]), Clock(candidates(WINDOWS, 132)[0])
    triton_tune.choose(MAP, first.run, first)
    assert triton_tune.choose(WINDOWS, second.run, second) == candidates(WINDOWS, 132)[0]
    (path,) = cache.iterdir()
    assert len(json.loads(path.read_text())) == 2


def test_a_candidate_that_fails_is_passed_over(cache):
    clock = Clock(candidates(MAP, 132)[-1])

    def run(config):
        if config != clock.best:
            raise RuntimeError("out of resources")
        clock.run(config)

    assert triton_tune.choose(MAP, run, clock) == clock.best
    triton_tune._CHOSEN.clear()

    def never(config):
        raise RuntimeError("out of resources")

    assert triton_tune.choose(WINDOWS, never, clock) == heuristic(WINDOWS, 132)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"x": 1}',
        "NAME[9, 9, 9, true, 1]",
        "NAME[4, 2, 100000, false, 1]",
        "NAME[4, 2, 1, false]",
        "NAME[4, 2, 1, false, 3]",
        "NAME7",
    ],
)
def test_a_broken_file_is_measured_anew(cache, content):
    path = triton_tune.table_path()
    path.parent.mkdir(parents=True)
    if content.startswith("NAME"):
        content = json.dumps({triton_tune.shape_class(MAP): json.loads(content.removeprefix("NAME"))})
    path.write_text(content)
    clock = Clock(candidates(MAP, 132)[1])
    assert triton_tune.choose(MAP, clock.run, clock) == clock.best


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, cache, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LEMAMBA_CACHE", str(tmp_path / "file" / "cache"))
    clock = Clock(candidates(MAP, 132)[-1])
    assert triton_tune.choose(MAP, clock.run, clock) == clock.best


def test_several_processes_take_the_choice_of_the_first(cache, monkeypatch):
    """The second rank, by whose clock another configuration is the fastest, measures nothing and takes the first's."""
    store, tried = torch.distributed.HashStore(), candidates(MAP, 132)
    first, second = Clock(tried[-1]), Clock(tried[0])
    for rank, clock in ((1, first), (0, second)):  # whichever comes first
        monkeypatch.setattr(triton_tune, "_store", lambda rank=rank: (store, rank))
        monkeypatch.setenv("LEMAMBA_CACHE", str(cache / str(rank)))  # as on two machines
        monkeypatch.setattr(triton_tune, "_CHOSEN", {})
        assert triton_tune.choose(MAP, clock.run, clock) == tried[-1]
    assert first.ran and not second.ran


def test_a_process_whose_measurement_never_comes_is_not_waited_for_long(cache, monkeypatch):
    store, clock = torch.distributed.HashStore(), Clock(candidates(MAP, 132)[-1])
    monkeypatch.setattr(triton_tune, "_store", lambda: (store, 0))
    monkeypatch.setattr(triton_tune, "WAIT", 0.1)
    store.set(f"{triton_tune.table_path().name} {triton_tune.shape_class(MAP)} owner", "1")
    assert triton_tune.choose(MAP, clock.run, clock) == clock.best


def test_switched_off_it_measures_nothing(cache, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert triton_tune.wanted()
    monkeypatch.setenv("LEMAMBA_TUNE", "0")
    clock = Clock(candidates(MAP, 132)[-1])
    assert triton_tune.choose(MAP, clock.run) == heuristic(MAP, 132)
    assert not clock.ran
    assert not cache.exists()


def test_while_a_graph_is_recorded_nothing_is_measured(cache, monkeypatch):
    clock = Clock(candidates(MAP, 132)[-1])
    capturing = True
    monkeypatch.setattr(triton_tune, "_capturing", lambda: capturing)
    assert triton_tune.choose(MAP, clock.run, clock) == heuristic(MAP, 132)
    assert not clock.ran
    capturing = False
    assert triton_tune.choose(MAP, clock.run, clock) == clock.best
    capturing = True
    assert triton_tune.choose(MAP, clock.run, clock) == clock.best  # what the warm-up before it chose


def test_few_long_maps_are_chunked_and_windows_merged():
    assert heuristic(MAP, 132).chunks > 1
    assert heuristic(WINDOWS, 132) == Config(4, 4, 1, True)
    assert heuristic(MAP, 0).chunks == 1  # without a GPU nothing is to be filled


@pytest.mark.parametrize("length", [1, 3, 64, 65, 1000, 16384])
def test_chunks_cover_the_sequence(length):
    for batch in (1, 4, 4096):
        shape = Shape(batch, 4, 64, 16, 2, length, True, False, False, True)
        for config in candidates(shape, 132):
            size = chunk_length(shape, config)
            assert size % steps(length) == 0
            assert size * config.chunks >= length
            assert fits(shape, config)
