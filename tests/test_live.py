"""The live view of a training, and what TensorBoard gets of pictures and of the inside of a network."""

from __future__ import annotations

import io
import os
import pty
import re
import select
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_training
import torch
import yaml
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file
from small_files import write_training_set
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_training import make_job

from lemamba.commands import train as command
from lemamba.engine.training.logger import Logger
from lemamba.model import build_model
from lemamba.model.layers import ss2d
from lemamba.model.ops.scan.cross import to_sequences
from lemamba.reporting import live
from lemamba.reporting.live import LiveView, plot
from lemamba.reporting.pictures import ROW_SIDE, Stretch, panel_row, quick_look
from lemamba.utils import config, progress

ROOT = Path(__file__).resolve().parent.parent
SMALL = {"width": 8, "middle_blk_nums": 1, "ssm_enc_blk_nums": [2, 1], "ssm_dec_blk_nums": [1, 1]}
SMALL |= {"ssm_chan_upscale": [1, 1], "ssm_ratios": [2, 1], "window_sizes": [8, None]}
SMALL |= {"ssm_enc_d_states": [[4, 4], [None, 4]], "ssm_dec_d_states": [[None, 4], [4, 4]]}
SMALL |= {"ssm_enc_convs": [[3, 3], [None, 3]], "ssm_dec_convs": [[None, 3], [3, 3]]}

# ---------------------------------------------------------------------------------------------------- the view


def shown(view: LiveView, width: int, height: int = 40, encoding: str = "utf-8") -> list[str]:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)
    Console(file=file, width=width, height=height, force_terminal=True, color_system=None, legacy_windows=False).print(
        view
    )
    return file.buffer.getvalue().decode(encoding).splitlines()


@pytest.fixture
def view(monkeypatch) -> LiveView:
    """A quarter of a training of 400 s, whose second validation was better than the third."""
    now = [1000.0]
    monkeypatch.setattr(live.time, "monotonic", lambda: now[0])
    view = LiveView("run_7", 40, "psnr", smaller=False)
    view.move(0.0, 0.0, "")
    for step in range(1, 101):
        loop = {"loop/lr": 1.25e-3, "loop/samples_per_second": 321.5, "loop/grad_norm": 0.0123, "loop/skipped_steps": 3}
        view.add({"train/total": 0.5 / step, **loop, "loop/gpu_memory_gib": 4.25}, step=step, epoch=step / 10)
        if step in (30, 60, 90):
            psnr = {30: 31.5, 60: 35.25, 90: 34.125}[step]
            view.add({"valid/psnr": psnr, "valid/sam": step / 100, "valid/loss": None}, step=step, epoch=step / 10)
    now[0] += 100
    view.move(0.25, 10.0, "validating, 3 of 20 batches")
    return view


@pytest.mark.parametrize("width", [60, 100, 160])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_the_view_has_the_numbers_it_was_given_at_every_width(view, width, encoding):
    lines = shown(view, width, encoding=encoding)
    text = "\n".join(lines)
    assert max(map(len, lines)) < width, "a full line would be wrapped"
    assert "training run_7" in lines[0] and "loss 0.005, steps 1 to 100, log scale" in lines[1]
    for number in ("lr 1.25e-03", "321.5 samples/s", "gradient norm 0.0123", "GPU memory 4.25 GiB", "3 steps skipped"):
        assert number in text
    assert "epoch 10.00 of 40" in text and "step 100" in text and "validating, 3 of 20 batches" in text
    assert re.search(r"25\.0%  0:01:40  left 0:05:00$", lines[-1].rstrip()), "100 s for a quarter: 300 s to go"
    rows = {line.split()[0]: line for line in lines if line.startswith(("last", "best", "validation  "))}
    assert rows["validation"].split()[1:] == ["psnr", "sam"]
    assert rows["last"].split() == ["last", "epoch", "9", "step", "90", "34.1250", "0.9000"]
    assert rows["best"].split() == ["best", "epoch", "6", "step", "60", "35.2500", "0.6000"]
    assert ("validation psnr 34.12" in lines[1]) == (width >= 100)


def test_a_smaller_metric_is_better_where_it_is_said_and_nan_is_no_best():
    view = LiveView("r", None, "sam", smaller=True)
    for step, sam in enumerate((3.0, 2.0, float("nan"), 2.5)):
        view.add({"valid/sam": sam}, step=step, epoch=step)
    assert (
        view.best.step == 1 and view.last.step == 3 and [value for _, value in view.scores.points()] == [3.0, 2.0, 2.5]
    )


@pytest.mark.parametrize("width", [1, 7, 20, 33, 59])
@pytest.mark.parametrize("height", [2, 8, 14])
def test_the_view_fits_any_terminal(view, width, height):
    lines = shown(view, width, height)
    assert len(lines) < max(height, 2) and max(map(len, lines)) <= max(width - 1, 1)


def dots(lines: list[str]) -> np.ndarray:
    """The raster (4 rows, 2 columns a character) of braille lines, by the numbering of Unicode's dots 1 to 8."""
    high, wide = len(lines), max(map(len, lines))
    raster = np.zeros((4 * high, 2 * wide), dtype=bool)
    places = [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1), (3, 0), (3, 1)]
    for r, line in enumerate(lines):
        for c, character in enumerate(line):
            for bit, (i, j) in enumerate(places):
                raster[4 * r + i, 2 * c + j] = ord(character) >= 0x2800 and (ord(character) - 0x2800) >> bit & 1
    return raster


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("count", [2, 7, 5000])
def test_a_curve_rises_and_falls_where_the_data_do_and_has_no_gap(sign, count):
    x = np.linspace(0, 5, count)
    title, *lines = plot("q", list(zip(range(count), sign * np.exp(-x), strict=True)), 70, 8)
    raster = dots([line[10:] for line in lines])
    assert raster.any(axis=0).sum() == 120 and "steps 0 to" in title
    top, bottom = raster.argmax(axis=0)[:120], 31 - raster[::-1].argmax(axis=0)[:120]
    assert (sign * np.diff(top) >= 0).all() and (sign * np.diff(bottom) >= 0).all()
    assert {top[0], bottom[-1]} == ({0, 31} if sign == 1 else {31 - (raster[::-1, 0].argmax()), bottom[-1]})
    assert (top[1:] <= bottom[:-1] + 1).all() and (bottom[1:] >= top[:-1] - 1).all(), "neighbours touch"
    largest, smallest = (1, np.exp(-5)) if sign == 1 else (-np.exp(-5), -1)
    assert float(lines[0][:10]) == pytest.approx(largest, rel=1e-3)
    assert float(lines[-1][:10]) == pytest.approx(smallest, rel=1e-3)


def test_a_long_training_keeps_a_short_curve_with_its_ends():
    view = LiveView("r", 1, "loss", smaller=True)
    for step in range(10_000):
        view.add({"train/total": 1.0 + step}, step=step, epoch=0)
    steps, values = map(np.array, zip(*view.loss.points(), strict=True))
    assert 400 < len(steps) < 1100 and steps[0] < 10 and steps[-1] == 9999
    np.testing.assert_allclose(values, steps + 1)
    assert (np.diff(steps) > 0).all() and np.diff(steps).max() < 25, "the beginning is as fine as the end"


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, True),
        ({"TERM": "dumb"}, False),
        ({"NO_COLOR": "1"}, False),
        ({"CI": "true"}, False),
        ({"CI": "false"}, True),
    ],
)
def test_where_a_view_may_be_redrawn(monkeypatch, changed, expected):
    for name in ("NO_COLOR", "CI", "LEMAMBA_VERBOSITY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ({"TERM": "xterm"} | changed).items():
        monkeypatch.setenv(name, value)
    assert not progress.can_redraw(), "the tests have no terminal"
    for stream in (sys.stdout, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
    assert progress.can_redraw() == expected
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False, raising=False)
    assert not progress.can_redraw(), "… | tee log"


def test_on_a_terminal_lines_scroll_above_and_ctrl_c_leaves_the_last_state(tmp_path):
    """A whole training on a real terminal; ^C is typed there."""
    log = tmp_path / "log/p/run/train.log"
    head, tail = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": ".", "TERM": "xterm", "COLUMNS": "80", "LINES": "30", "CI": ""}
    environment.pop("NO_COLOR", None)
    line = [sys.executable, str(ROOT / "tests/tiny_training.py"), str(tmp_path), "-e", "100000", "--log_every", "1"]
    streams = {"stdin": tail, "stdout": tail, "stderr": tail}
    with subprocess.Popen(
        line, cwd=ROOT, env=environment, **streams, start_new_session=True, preexec_fn=_take_terminal
    ) as training:
        os.close(tail)
        output, typed = b"", False
        while select.select([head], [], [], 60)[0]:
            try:
                output += os.read(head, 65536)
            except OSError:  # the other end is closed
                break
            if not typed and b"best epoch" in output and b" left " in output:
                os.write(head, b"\x03")
                typed = True
    os.close(head)
    assert training.returncode == 0, output[-2000:]
    text = output.decode()
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1, "the cursor comes back"
    last_frame = text[text.rindex("training run") :]
    assert "stopped by SIGINT" in text[: text.rindex("training run")] and "stopped by SIGINT" in log.read_text()
    assert "loss " in last_frame and "best epoch" in last_frame and " left " not in last_frame
    written = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]|\s", "", text)
    assert all(re.sub(r"\s", "", line) in written for line in log.read_text().splitlines()), "every line was printed"


def test_lines_go_into_their_file_while_a_bar_is_on_the_terminal(tmp_path):
    head, tail = pty.openpty()
    code = "from lemamba.utils.progress import track\nfor i in track(range(3), 'work'): print('line', i)"
    with (tmp_path / "out").open("w") as out:
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=out, stderr=tail, check=True)
    os.close(tail)
    assert (tmp_path / "out").read_text() == "line 0\nline 1\nline 2\n"
    assert b"100.0%" in os.read(head, 65536)
    os.close(head)


def _take_terminal() -> None:
    """Make stdin the terminal that sends ^C as a signal."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def test_no_view_where_it_is_not_wanted_or_another_command_shows_one(tmp_path, monkeypatch):
    monkeypatch.setattr("lemamba.engine.training.fit.can_redraw", lambda: True)
    made = []
    monkeypatch.setattr(LiveView, "__enter__", lambda self: made.append(self) or self)
    monkeypatch.setattr(LiveView, "__exit__", lambda *a: None)
    for i, flags in enumerate((["--live", "false"], [], [])):
        job = make_job(tmp_path / str(i), "-e", "1", *flags)
        if i == 1:
            job.on_progress = lambda share, scores: None
        tiny_training.train(job, Accelerator(cpu=True))
        assert len(made) == (i == 2)
    (view,) = made
    assert view.step == 3 and view.share == 1.0 and len(view.loss.points()) == 1
    # a resumed run shows the whole curve
    tiny_training.train(make_job(tmp_path / "2", "-e", "2", resume=True), Accelerator(cpu=True))
    assert [step for step, _ in made[1].loss.points()] == [3, 6] and len(made[1].scores.points()) == 2


# ---------------------------------------------------------------------------------------------------- TensorBoard


def panels_of(picture: np.ndarray, count: int, high: int, wide: int) -> list[np.ndarray]:
    """Cut a row of panels apart: they lie at the bottom left, 8 pixels from the edges and from one another."""
    rows = picture[-8 - high : -8]
    return [rows[:, 8 + i * (wide + 8) :][:, :wide] for i in range(count)]


@pytest.mark.parametrize(("side", "drawn"), [((16, 16), 16), ((64, 48), 4), ((256, 256), 1), ((517, 520), 0.5)])
def test_panels_are_large_and_their_pixels_whole(side, drawn):
    draw = np.random.default_rng(0)
    images = {name: draw.uniform(size=(3, *side)) for name in ("lms", "sr", "gt")} | {
        "pan": draw.uniform(size=(1, *side))
    }
    stretch = Stretch(np.array([[0.0, 1.0]] * 3), 1.0)
    look = quick_look(images, (0, 1, 2), stretch)
    picture = panel_row(look, 1.0, "error")
    high, wide = (int(n * drawn) for n in side)
    assert ROW_SIDE <= max(high, wide) < 2 * ROW_SIDE and picture.shape[1] > 5 * wide
    shown = dict(zip(look, panels_of(picture, 5, high, wide), strict=True))
    assert list(shown) == ["lms", "pan", "sr", "gt", "error"]
    for name in ("lms", "sr", "gt"):
        exact = 255 * images[name].transpose(1, 2, 0)
        if drawn >= 1:
            expected = exact.repeat(int(drawn), 0).repeat(int(drawn), 1)
        else:
            expected = exact[:516].reshape(258, 2, 260, 2, 3).mean(axis=(1, 3))
        assert np.abs(shown[name] - expected).max() <= 1
    assert len(np.unique(shown["error"].reshape(-1, 3), axis=0)) > 50, "the error is in colour"


def read_images(folder: Path, tag: str) -> list[tuple[int, np.ndarray]]:
    events = EventAccumulator(str(folder), size_guidance={"images": 0}).Reload()
    return [(e.step, np.array(Image.open(io.BytesIO(e.encoded_image_string)))) for e in events.Images(tag)]


def test_all_pictures_of_a_run_have_the_brightness_of_its_first_one(tmp_path):
    """A second gt with another range, and at last the first one again: its pixels are the same."""
    log = Logger(tmp_path, tmp_path / "runs", main=True, step=0, shown=False)
    g = torch.Generator().manual_seed(0)
    gt = torch.rand(4, 64, 64, generator=g) * 0.25
    low, high = np.percentile(gt[0].numpy(), (1, 99))
    others = {"lms": gt, "pan": gt[:1]}
    for step, (sr, truth) in enumerate(((gt + 0.01, gt), (gt + 0.02, 4 * gt), (gt + 0.02, gt)), start=1):
        log.picture(others | {"sr": sr, "gt": truth}, (0, 1, 2), 2047.0, step)
    log.close()
    (one, a), (_, b), (three, c) = read_images(tmp_path / "runs", "valid/lms_pan_sr_gt_error")
    assert (one, three) == (1, 3) and a.shape == c.shape == (290, 1420, 3)
    first, second, third = (panels_of(x, 5, 256, 256) for x in (a, b, c))
    for panel in (0, 1, 3):
        assert np.array_equal(first[panel], third[panel])
    assert np.array_equal(first[0], second[0]), "lms is no brighter because gt is"
    expected = np.clip((gt[0].numpy() - low) / (high - low), 0, 1).repeat(4, 0).repeat(4, 1) * 255
    assert np.abs(first[3][..., 0] - expected).max() <= 1
    bright = [panels[4].astype(int).sum(axis=-1).mean() for panels in (first, third)]
    assert bright[1] > 1.2 * bright[0], "twice the error is brighter: the colours have one scale"


@pytest.mark.parametrize("share_local", [False, True])
def test_what_lemamba_says_of_itself_is_what_its_own_pass_did(monkeypatch, share_local):
    """The strengths of gates from the inputs of the scans of a pass, written out in sequences and float64."""
    torch.manual_seed(0)
    network = build_model(
        "LEMamba", img_channel=3, condition_channel=1, out_channel=3, share_local_state=share_local, **SMALL
    ).eval()
    with torch.no_grad():
        for p in network.skip_scales:
            p.uniform_(-1, 1)
    images = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 16, 16), torch.rand(2, 1, 16, 16)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    expected, original = [], ss2d.cross_selective_scan

    def watched(x, *given, shared_state, gate, rho, **named):
        if shared_state is not None:
            K, D = rho.shape[1:3]
            xs = to_sequences(x.double()[:, None].expand(-1, K, -1, -1, -1))
            s = shared_state.double().unflatten(1, (K, D))
            u = xs + rho.double().view(K, D, 1) * (s @ to_sequences(gate.double()))
            expected.append(((u - xs).norm() / xs.norm()).item())
        return original(x, *given, shared_state=shared_state, gate=gate, rho=rho, **named)

    monkeypatch.setattr(ss2d, "cross_selective_scan", watched)
    outputs = []
    said = network.log_scalars(lambda: outputs.append(network(*images)))
    assert list(said) == ["enhanced_factor", "state_gate", "skip_scale"]
    blocks = ["encoder1_block2", "decoder2_block1", "decoder1_block1"]
    if share_local:
        blocks = ["encoder1_block2_local", "encoder1_block2", "decoder2_block1", "decoder1_block1_local", blocks[2]]
        blocks = [b for b in blocks if b in said["state_gate"]]
    assert list(said["state_gate"]) == blocks and len(blocks) >= 3
    assert list(said["state_gate"].values()) == pytest.approx(expected, rel=1e-4)
    assert said["enhanced_factor"] == {
        name: pytest.approx(before[f"{place}.enhanced_factor"].abs().mean().item())
        for name, place in (
            ("encoder1_block1", "encoders.0.0"),
            ("encoder1_block2", "encoders.0.1"),
            ("decoder1_block1", "decoders.1.0"),
        )
    }
    scales = [before[f"skip_scales.{i}"].abs().mean().item() for i in range(2)]
    assert said["skip_scale"] == {"decoder2": pytest.approx(scales[0]), "decoder1": pytest.approx(scales[1])}
    # and nothing is left of it
    with torch.no_grad():
        assert torch.equal(outputs[0], network(*images)) and not network._forward_pre_hooks
    assert not any(getattr(module, "on_gate", None) for module in network.modules())


def test_a_training_writes_it_all_and_learns_the_same(tmp_path, monkeypatch):
    """Events read back: pictures, gates, rate, speed; weights are those of a run without TensorBoard, bit for bit."""
    write_training_set(tmp_path / "train_ikonos.h5", 8, 0)
    write_training_set(tmp_path / "valid_ikonos.h5", 2, 1)
    monkeypatch.chdir(tmp_path)
    model = {"arch": "LEMamba", "args": SMALL | {"drop_path_rate": 0.3}}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump({"model": model}))
    line = "-c small.yaml --dataset ikonos --data_root . -e 3 -b 4 --grad_accum_steps 1 --val_n_epoch 1 "
    line += "--log_every 2 --checkpoint_every_n 0 --run_name "
    for name in ("plain", "seen --logger_on"):
        command.run(config.parse(shlex.split(line + name)))
        AcceleratorState._reset_state(reset_partial_state=True)
    a, b = (load_file(f"log_file/LE-Mamba/{name}/weights/last.safetensors") for name in ("plain", "seen"))
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
    events = EventAccumulator("runs/LE-Mamba/seen").Reload()
    assert [e.step for e in events.Scalars("state_gate/encoder1_block2")] == [2, 4, 6]
    for tag in ("loop/lr", "loop/samples_per_second", "loop/grad_norm", "enhanced_factor/decoder1_block1"):
        assert all(np.isfinite(e.value) for e in events.Scalars(tag)), tag
    (image,) = {(e.width, e.height) for e in events.Images("valid/lms_pan_sr_gt_error")}
    assert image == (1420, 290)
