"""Configuration: what wins, what is refused, and that the published command line means what it says."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from lemamba.utils import config
from lemamba.utils.errors import UserError
from lemamba.utils.safe_yaml import parse_yaml, read_yaml

PUBLISHED = """--proj_name LE-Mamba --arch LEMamba --dataset wv3 --num_worker 6 -e 800 -b 32 --aug_probs 0. 0.
--loss l1ssim --grad_accum_steps 2 --checkpoint_every_n 20 --val_n_epoch 20
--comment "a comment" --log_metric --logger_on"""


def resolve(line: str = "", folder: Path = config.CONFIG_FOLDER, **more) -> config.Config:
    command = config.parse(shlex.split(line))
    return config.resolve(command.flags, command.config_file, folder=folder, **more)


def test_published_command_line_word_for_word():
    c = resolve(PUBLISHED)
    assert (c.log.proj_name, c.model.arch, c.data.dataset, c.data.num_workers) == ("LE-Mamba", "LEMamba", "wv3", 6)
    assert (c.train.epochs, c.train.batch_size, c.train.grad_accum_steps) == (800, 32, 2)
    assert (c.train.checkpoint_every_n, c.train.val_n_epoch, c.data.aug_probs) == (20, 20, (0.0, 0.0))
    assert (c.loss.name, c.log.comment, c.log.log_metric, c.log.logger_on) == ("l1ssim", "a comment", True, True)


def test_released_settings_are_the_defaults():
    c = resolve(PUBLISHED)
    assert (c.optimizer.name, c.optimizer.lr, c.optimizer.weight_decay) == ("adamw", 1e-3, 1e-6)
    s = c.schedule
    assert (s.name, s.T0, s.T_mult, s.reduce, s.eta_min) == ("cos_anneal_restart_reduce", 50, 2, 0.9, 8e-5)
    assert s.per_epoch
    assert (c.train.clip_norm, c.train.ema_decay, c.train.seed) == (0.03, 0.995, 3407)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_default_then_yaml_then_file_then_command_line(tmp_path):
    write(tmp_path / "Net_config.yaml", "optimizer: {lr: 2e-3, weight_decay: 0.5}\ntrain: {epochs: 7, seed: 1}")
    file = write(tmp_path / "mine.yaml", "optimizer: {weight_decay: 0.25}\ntrain: {seed: 2}")
    c = resolve(f"--arch n-e_T -c {file} --seed 3", tmp_path)
    assert (c.optimizer.lr, c.train.epochs) == (2e-3, 7)  # from the architecture's file, found in any spelling
    assert c.optimizer.weight_decay == 0.25  # -c beats it
    assert c.train.seed == 3  # a flag beats all
    assert c.train.batch_size == config.TrainConfig().batch_size  # nobody set it


@pytest.mark.parametrize("as_file", [True, False])
def test_arguments_belong_to_the_optimizer_they_were_given_to(tmp_path, as_file):
    write(tmp_path / "Net_config.yaml", "optimizer: {name: sgd, lr: 0.2, args: {momentum: 0.9}}\nloss: {args: {a: 1}}")
    file = write(tmp_path / "mine.yaml", "optimizer: {name: adamw}")
    other = resolve(f"--arch Net -c {file}" if as_file else "--arch Net --optimizer adamw", tmp_path)
    assert (other.optimizer.name, other.optimizer.args, other.optimizer.lr) == ("adamw", {}, 0.2)
    assert resolve("--arch Net --lr 0.1", tmp_path).optimizer.args == {"momentum": 0.9}
    assert other.loss.args == {"a": 1}


def test_each_value_knows_the_layer_it_comes_from(tmp_path):
    write(tmp_path / "Net_config.yaml", "optimizer: {lr: 2e-3, args: {betas: [0.8, 0.9]}}\ntrain: {seed: 1}")
    file = write(tmp_path / "mine.yaml", "train: {seed: 2}")
    command = config.parse(shlex.split(f"--arch Net -c {file} --lr 0.5"))
    run = {"train": {"epochs": 9}}
    c, layers = config.resolve_layers(command.flags, command.config_file, run, folder=tmp_path)
    found = {key: config.source_of(key, layers) for key in config.flat(config.to_dict(c))}
    assert found["optimizer.lr"] == found["model.arch"] == "the command line"
    assert found["train.seed"] == str(file) and found["train.epochs"] == "the resumed run"
    assert found["optimizer.args.betas"] == str(tmp_path / "Net_config.yaml")
    assert found["train.clip_norm"] == "configs/neutral.yaml" and found["data.shuffle"] == "default"


def test_only_le_mamba_starts_from_le_mambas_settings(tmp_path):
    for arch, names in (("le-mamba", ("l1ssim", 0.03, 0.995, 2)), ("SomeNet", ("l1", None, None, 1))):
        c = resolve(f"--arch {arch}", tmp_path)
        assert (c.loss.name, c.train.clip_norm, c.train.ema_decay, c.train.grad_accum_steps) == names


def test_a_flags_default_never_overrides_the_yaml(tmp_path):
    file = write(tmp_path / "mine.yaml", "train: {epochs: 3, batch_size: 1}\nlog: {log_metric: true}")
    c = resolve(f"-c {file} -b 9", tmp_path)
    assert (c.train.epochs, c.train.batch_size, c.log.log_metric) == (3, 9, True)


@pytest.mark.parametrize(("text", "value"), [("False", False), ("false", False), ("0", False), ("True", True)])
def test_a_boolean_flag_means_what_it_says(text, value):
    assert resolve(f"--shuffle {text}").data.shuffle is value
    assert resolve("--shuffle").data.shuffle is True


def test_set_reaches_every_field_and_null_switches_off():
    c = resolve("--set schedule.T0=7 --set optimizer.args.betas=[0.9,0.99] --clip_norm none --set train.ema_decay=null")
    assert (c.schedule.T0, c.optimizer.args, c.train.clip_norm, c.train.ema_decay) == (
        7.0,
        {"betas": [0.9, 0.99]},
        None,
        None,
    )


def test_variants_give_constructor_arguments(tmp_path):
    write(
        tmp_path / "Net_config.yaml",
        "model: {arch: Net, variant: tiny, variants: {tiny: {width: 4, d: 1}, big: {width: 9}}, args: {d: 2}}",
    )
    assert config.model_arguments(resolve("--arch Net", tmp_path)) == {"width": 4, "d": 2}
    assert config.model_arguments(resolve("--arch Net --variant big", tmp_path)) == {"width": 9, "d": 2}
    with pytest.raises(UserError, match='did you mean "tiny"'):
        resolve("--arch Net --variant tinny", tmp_path)
    with pytest.raises(UserError, match="no variants"):
        resolve("--arch Other --variant big", tmp_path)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("--set optimiser.lr=1", 'did you mean "optimizer"'),
        ("--set optimizer.leraning_rate=1", "optimizer.leraning_rate"),
        ("--set train.epoch=1", 'did you mean "epochs"'),
        ("--epoch 3", 'did you mean "--epochs"'),
        ("-e many", "invalid int"),
        ("-e 0", "at least 1"),
        ("--set train.epochs=1.5", "whole number"),
        ("--set train.epochs=true", "whole number"),
        ("--set train.compile=1", "true or false"),
        ("--lr nan", "expected a number"),
        ("--set train.ema_decay=1", "less than 1"),
        ("--mixed_precision fp8", "fp16"),
        ("--aug_probs 0.5", "expected 2 arguments"),
        ("--aug_probs 0.5 1.5", "from 0 to 1"),
        ("--set data.aug_probs=[1]", "expected 2 numbers"),
        ("--proj_name ../../etc", "name of one folder"),
        ("--set train", "section.key=value"),
        ("--set train.epochs.x=1", "whole number"),
        ("-c /does/not/exist.yaml", "does not exist"),
        ("--shuffle maybe", "true or false"),
    ],
)
def test_what_is_wrong_is_one_line_with_the_way_out(line, says):
    with pytest.raises(UserError) as error:
        resolve(line)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_unknown_key_of_a_file_names_the_file_and_the_nearest_key(tmp_path):
    file = write(tmp_path / "mine.yaml", "train: {batch_sise: 3}")
    with pytest.raises(UserError, match=r'mine\.yaml: unknown key "train.batch_sise" \(did you mean "batch_size"'):
        resolve(f"-c {file}", tmp_path)


def test_saved_configuration_reads_back_to_the_same(tmp_path):
    c = resolve(PUBLISHED + " --variant base --set train.max_minutes=1.5 --set schedule.milestones=[1,2]")
    config.save(c, tmp_path / "config.yaml")
    again = config.from_dict(read_yaml(tmp_path / "config.yaml"))
    assert config.to_dict(again) == config.to_dict(c)
    assert list(again.model.variants) == ["base"]
    resumed = resolve("-e 900", run_config=config.to_dict(c))
    assert (resumed.model.variant, resumed.train.epochs, resumed.train.max_minutes) == ("base", 900, 1.5)


def test_a_configuration_that_cannot_be_written_is_one_line_and_leaves_nothing(tmp_path):
    """In a run of several processes the others receive a `UserError`; with any other error they would wait for ever."""
    write(tmp_path / "file", "in the way")
    with pytest.raises(UserError, match="cannot write"):
        config.save(resolve(), tmp_path / "file" / "config.yaml")
    (tmp_path / "config.yaml").mkdir()
    with pytest.raises(UserError, match="cannot write"):
        config.save(resolve(), tmp_path / "config.yaml")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.yaml", "file"]


def test_every_shipped_configuration_loads():
    files = sorted(config.CONFIG_FOLDER.glob("*.yaml"))
    assert files
    for file in files:
        resolve(f"-c {file}")
        if file.name.endswith("_config.yaml"):
            resolve(f"--arch {file.name.removesuffix('_config.yaml')}")


def test_every_shipped_accelerate_configuration_loads():
    from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file

    files = sorted((config.CONFIG_FOLDER / "huggingface").glob("*.yaml"))
    expected = {"accelerate", "cpu", "deepspeed_zero2", "fsdp", "multi_gpu", "one_gpu"}
    assert {f.stem for f in files} == expected
    for file in files:
        loaded = load_config_from_file(str(file))  # refuses unknown keys and distributed types
        assert isinstance(loaded, ClusterConfig)
        assert loaded.mixed_precision is None, "precision is set in one place: our configuration"


def test_yaml_tags_duplicate_keys_and_broken_text_are_refused():
    for text, says in (
        ("a: !!python/object/apply:os.system [true]", "not valid YAML"),
        ("a: 1\na: 2", "'a' is given twice"),
        ("x: {b: 1, b: 2}", "'b' is given twice"),
        ("[" * 5000, "YAML: "),
        ("a: 2024-13-45", "not valid YAML"),
        ("{[1]: 2}", "not valid YAML"),
    ):
        with pytest.raises(UserError, match=says):
            parse_yaml(text)
    assert parse_yaml("lr: 1e-3\nbase: &b {x: 1}\nother: {<<: *b, x: 2}") == {
        "lr": 1e-3,
        "base": {"x": 1},
        "other": {"x": 2},
    }


def test_wrong_files_are_refused(tmp_path):
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(UserError, match="UTF-8"):
        read_yaml(tmp_path / "binary.yaml")
    with pytest.raises(UserError, match="sections"):
        read_yaml(write(tmp_path / "list.yaml", "[1, 2]"))
    assert read_yaml(write(tmp_path / "empty.yaml", "# nothing\n")) == {}


def test_a_shipped_configuration_is_found_from_any_folder(tmp_path, monkeypatch):
    """Recipes and the documentation write `-c configs/demo.yaml`; a file of that name in the folder comes first."""
    monkeypatch.chdir(tmp_path)
    assert resolve("-c configs/demo.yaml").data.dataset == "demo"
    (tmp_path / "configs").mkdir()
    write(tmp_path / "configs/demo.yaml", "data: {dataset: mine}")
    assert resolve("-c configs/demo.yaml").data.dataset == "mine"
    with pytest.raises(UserError, match="does not exist"):
        resolve("-c configs/nowhere.yaml")


@pytest.mark.parametrize(
    ("older", "line"),
    [
        ("--cpu", "--device cpu"),
        ("--cpu true", "--device cpu"),
        ("--cpu false", "--device none"),
        ("--set train.cpu=true", "--device cpu"),
        ("--set train.cpu=false", ""),
        ("--batch 3", "--batch_size 3"),
        ("-b 3", "--batch_size 3"),
        ("--precision bf16", "--mixed_precision bf16"),
        ("--precision float32", "--mixed_precision no"),
        ("--num_epochs 3", "-e 3"),
        ("--num_worker 3", "--num_workers 3"),
    ],
)
def test_older_spellings_mean_the_same(older, line):
    assert resolve(older) == resolve(line)


def test_a_run_before_devices_had_names_is_resumed_where_it_ran():
    old = config.to_dict(resolve())
    del old["train"]["device"], old["train"]["scan_backend"]
    old["train"]["cpu"] = True
    assert resolve("", run_config=old).train.device == "cpu"
    assert resolve("--device cuda", run_config=old).train.device == "cuda"
    old["train"]["cpu"] = False
    assert resolve("", run_config=old).train.device is None
