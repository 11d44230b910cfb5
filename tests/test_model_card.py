"""The model card of weights: hub tools read it, its commands run, and equal trainings give equal cards."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_training
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from huggingface_hub import ModelCard
from small_files import smooth, tif, write_test_set, write_training_set
from tiny_training import make_job

import lemamba.engine.training.fit
from lemamba.commands import train
from lemamba.datasets import provenance
from lemamba.datasets.h5 import H5Dataset
from lemamba.engine.training.checkpoint import Checkpoints
from lemamba.engine.training.fit import fit
from lemamba.engine.weights.card import model_card
from lemamba.engine.weights.files import read_weights, save_weights, weights_meta
from lemamba.utils import config
from lemamba.utils.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
META = {"model": {"name": "Net", "args": {"img_channel": 4, "condition_channel": 1}}}
LINE = "--arch LEMamba --dataset ikonos -e 2 -b 4 --val_n_epoch 1 --run_name r --license cc-by-4.0"
SMALL = ["model.args.width=8", "model.args.ssm_enc_blk_nums=[1,1,1]", "model.args.ssm_dec_blk_nums=[1,1,1]"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder in which the training command has trained a small LE-Mamba; `weights` is its run's folder of weights."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "data").mkdir()
    write_training_set(folder / "data/train_ikonos.h5", 8, 0)
    write_training_set(folder / "data/valid_ikonos.h5", 4, 1)
    write_test_set(folder / "data/test_ikonos_multiExm1.h5")
    line = [*LINE.split(), "--data_root", "data", *(w for s in SMALL for w in ("--set", s))]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train.run(config.parse(line))
    AcceleratorState._reset_state(reset_partial_state=True)
    (folder / "weights").symlink_to(folder / "log_file/LE-Mamba/r/weights")
    return folder


def test_hub_tools_read_the_header(trained):
    data = ModelCard.load(trained / "weights/README.md").data
    assert (data.license, data.library_name, data.pipeline_tag) == ("cc-by-4.0", "pytorch", "image-to-image")
    assert {"pansharpening", "LEMamba", "IKONOS"} <= set(data.tags)
    assert data.datasets == ["ikonos"] and set(data.metrics) == {"ergas", "psnr", "sam"}


def test_the_page_describes_the_files(trained):
    """Hashes, sizes, scores and counts are those of the files themselves, not of another record."""
    page = (trained / "weights/README.md").read_text()
    for name in ("best", "last"):
        file = trained / f"weights/{name}.safetensors"
        facts = json.loads(file.with_suffix(".json").read_text())
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        row = next(line for line in page.splitlines() if line.startswith(f"| `{name}.safetensors`"))
        steps = facts["training"]["step"]
        assert f"| {steps} | {file.stat().st_size} | `{digest}` |" in row and digest == facts["sha256"]
        assert f"| {facts['metrics']['ergas']:.4f} |" in page
    train = trained / "data/train_ikonos.h5"
    state, meta = read_weights(trained / "weights/last.safetensors")
    assert meta["facts"]["parameters"] == f"{sum(t.numel() for t in state.values()):,}"
    for text in (
        f"train_ikonos.h5: 8 patches, {train.stat().st_size} bytes",
        hashlib.sha256(train.read_bytes()).hexdigest(),
        "divided by 2047",
        "| state_grad | detached |",
        "8 = 4 x 1 process(es) x 2",
        torch.__version__,
        meta["facts"]["parameters"],
        json.dumps(meta["model"]["args"]),
        "## Licence\n\ncc-by-4.0",
    ):
        assert text in page, text
    assert str(trained) not in page


def test_the_commands_of_the_card_run_as_printed(trained, tmp_path, monkeypatch):
    pytest.importorskip("rasterio")
    page = (trained / "weights/README.md").read_text()
    pair = tif(tmp_path / "ms.tif", smooth(16, 16, 4), pixel=4.0), tif(tmp_path / "pan.tif", smooth(64, 64, 1), pixel=1)
    (tmp_path / "inference.py").symlink_to(ROOT / "inference.py")  # results go below the folder of the command
    env = {**os.environ, "WEIGHTS": str(trained / "weights"), "DATA": str(trained / "data"), "PYTHONPATH": str(ROOT)}
    env |= {"MS": str(pair[0]), "PAN": str(pair[1]), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    blocks = re.findall(r"```(\w+)\n(.*?)```", page, flags=re.S)
    assert [language for language, _ in blocks] == ["bash", "python"]
    for command in blocks[0][1].splitlines():
        done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, (command, done.stderr)
    assert (tmp_path / "fused.tif").is_file()
    images = tmp_path / "visualized_img/LEMamba_ikonos/LE-Mamba/r"  # the path names the run
    assert (images / "data_LEMamba_ikonos_ref.mat").is_file()

    monkeypatch.setenv("WEIGHTS", env["WEIGHTS"])
    names: dict = {}
    exec(blocks[1][1], names)
    assert names["sr"].shape == (1, 4, 64, 64)


def test_a_resumed_training_gives_the_same_weight_files_and_card_byte_for_byte(tmp_path, monkeypatch):
    def files(name: str, stop_after: int | None) -> dict[str, bytes]:
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        if stop_after:
            assert tiny_training.train(make_job(Path()), Accelerator(cpu=True), stop_after).reason == "SIGTERM"
        fit(make_job(Path(), resume=bool(stop_after)), Accelerator(cpu=True))
        return {p.name: p.read_bytes() for p in Path("log/p/run/weights").iterdir() if p.suffix != ".json"}

    undisturbed = files("undisturbed", None)
    assert set(undisturbed) == {"README.md", "best.safetensors", "last.safetensors"}
    assert files("stopped", 5) == undisturbed


def test_scores_are_shown_only_where_they_were_measured(tmp_path, monkeypatch):
    """Saved after every epoch, validated at the end: what is saved on the way has no scores of other weights."""
    pages, original = [], lemamba.engine.training.fit.save_weights

    def save(path, state, meta, **rest):
        original(path, state, meta, **rest)
        pages.append((path.stem, meta["metrics"], (path.parent / "README.md").read_text()))

    monkeypatch.setattr(lemamba.engine.training.fit, "save_weights", save)
    fit(make_job(tmp_path, "--val_n_epoch", "2"), Accelerator(cpu=True))
    assert pages[0][:2] == ("last", {}) and len(pages) > 3
    assert all(scores for _, scores, _ in pages[1:])
    assert "`last.safetensors` was saved between two validations" in pages[0][2]
    assert "between two validations" not in pages[-1][2] and "| `best.safetensors` |" in pages[-1][2]


def test_a_disk_that_fills_while_the_card_is_written_ends_no_training(tmp_path, monkeypatch):
    """The write of the card fails each time; what is said is what is said of weights, and no half of it remains."""
    original = Path.open

    def full(self, *arguments, **options):
        if self.name.startswith(".README.md"):
            raise OSError(28, "No space left on device")
        return original(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", full)
    assert fit(make_job(tmp_path), Accelerator(cpu=True)).reason == "finished"
    run = tmp_path / "log/p/run"
    assert "No space left on device" in (run / "train.log").read_text()
    assert list((run / "weights").iterdir()) == [] and Checkpoints(run / "checkpoints").latest() is not None


def test_a_new_file_never_stands_beside_words_about_the_old_one(tmp_path, monkeypatch):
    """Killed between any two renames and removals: what is left is read, as the old weights or as the new ones."""
    path = tmp_path / "last.safetensors"
    for allowed in range(6):
        save_weights(path, {"a": torch.zeros(3)}, META, card=True)
        done = []

        def counted(original, done=done, allowed=allowed):
            def change(self, *arguments, **options):
                done.append(self)
                if len(done) > allowed:
                    raise KeyboardInterrupt
                return original(self, *arguments, **options)

            return change

        with monkeypatch.context() as patch:
            for name in ("replace", "unlink"):
                patch.setattr(Path, name, counted(getattr(Path, name)))
            try:
                save_weights(path, {"a": torch.ones(3)}, META, card=True)
                whole = True
            except KeyboardInterrupt:
                whole = False
        value = float(read_weights(path)[0]["a"][0])
        assert value == (1 if whole or allowed >= 3 else 0)
        card = tmp_path / "README.md"
        assert not card.exists() or hashlib.sha256(path.read_bytes()).hexdigest() in card.read_text()
        for rest in tmp_path.iterdir():
            rest.unlink()
    assert whole


def test_a_file_that_is_not_what_was_written_is_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(path, {"a": torch.zeros(1000)}, META)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="expected sha256 [0-9a-f]{64} .*found [0-9a-f]{64}.*copy both again") as error:
        read_weights(path)
    assert "\n" not in str(error.value)
    assert weights_meta(str(path)) == META  # the header only
    path.with_suffix(".json").unlink()
    assert read_weights(path)[1] == META


@pytest.mark.parametrize("beside", ['{"scores": 1}', "[1, 2]", '{"sha256": null}'])
def test_a_json_of_another_kind_says_nothing_about_the_weights(tmp_path, beside):
    save_weights(tmp_path / "w.safetensors", {"a": torch.zeros(1)}, META)
    (tmp_path / "w.json").write_text(beside)
    assert read_weights(tmp_path / "w.safetensors")[1] == META


def test_what_files_and_users_write_stays_in_its_place(tmp_path):
    """Names out of data files break neither the YAML nor a table, and broken neighbours are ignored."""
    strange = "a|b\n---\n<script>: [x"
    file = {"split": "training", "file": strange, "bytes": 1, "samples": 2, "sha256": None, "origin": strange}
    meta = {**META, "data": {"dataset": strange, "sensor": "none"}, "files": [file], "metrics": {"psnr": float("nan")}}
    (tmp_path / "best.safetensors").touch()
    for broken in ("[" * 100_000, "[1]", '{"sha256": "0", "metrics": 3}', '{"sha256": "0", "metrics": {"psnr": [1]}}'):
        (tmp_path / "best.json").write_text(broken)
        save_weights(tmp_path / "last.safetensors", {"a": torch.zeros(1)}, meta, card=True)
        assert "best.safetensors" not in (tmp_path / "README.md").read_text()
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.datasets == [strange] and card.data.license is None
    assert "No licence was chosen" in card.text
    table = card.text.partition("## Data")[2].partition("##")[0]
    rows = [line for line in table.splitlines() if line]
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 3 for row in rows) and "<script" not in card.text.split("```")[0]


def test_files_resumed_under_other_settings_are_named():
    files = {
        name: {**META, "bytes": 1, "sha256": "0", "config": {"loss": {"name": loss, "args": {}}}}
        for name, loss in (("best.safetensors", "mse"), ("last.safetensors", "l1"))
    }
    page = model_card(files["last.safetensors"], files)
    assert "`best.safetensors` was written under other settings" in page
    assert "`last.safetensors` was written under other" not in page


def test_data_files_are_named_with_their_sources_and_large_ones_not_hashed(tmp_path, monkeypatch):
    import h5py

    path = write_test_set(tmp_path / "x.h5")
    with h5py.File(path, "a") as file:
        file.attrs.update({"source": ["scene.mat"], "sha256": ["abc"], "seed": [3, 0]})
    facts = provenance.file_facts("training", H5Dataset(path, sensor="IKONOS"))
    assert facts["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (facts["file"], facts["samples"], facts["bytes"]) == ("x.h5", 2, path.stat().st_size)
    assert facts["origin"] == "scene.mat (sha256 abc), seed 3 0"
    monkeypatch.setattr(provenance, "HASH_LIMIT", 10)
    assert provenance.file_facts("training", H5Dataset(path, sensor="IKONOS"))["sha256"] is None


@pytest.mark.parametrize("given", ["Apache 2.0", "mit\nx: y", ""])
def test_a_licence_is_an_identifier(given):
    with pytest.raises(UserError, match="log.license: expected an identifier"):
        config.resolve({"log": {"license": given}})
