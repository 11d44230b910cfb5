"""The registry: names are read from the sources, nothing is imported, a new file is enough."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lemamba.model import build_model, list_models, model_class, model_entry
from lemamba.utils import config
from lemamba.utils.errors import UserError
from lemamba.utils.registry import FAMILIES, Traits, normalise, scan_folder

ROOT = Path(__file__).resolve().parent.parent
NEW_METHOD = """
import torch
from torch import nn
from lemamba.utils.registry import register_model

@register_model("{name}", tasks=("pansharpening",), ratios=(4,){more})
class Whatever(nn.Module):
    def __init__(self, img_channel, condition_channel, out_channel, *, ratio=4):
        super().__init__()
        self.mix = nn.Conv2d(img_channel + condition_channel, out_channel, 1)

    def forward(self, ms, lms, pan):
        return lms + self.mix(torch.cat([lms, pan], 1))
"""


def run_python(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_a_file_in_a_named_folder_is_a_method(tmp_path, monkeypatch):
    (tmp_path / "any_file.py").write_text(NEW_METHOD.format(name="My-Net", more=""))
    assert "My-Net" not in list_models()
    monkeypatch.setenv("LEMAMBA_MODEL_PATH", str(tmp_path))
    assert "My-Net" in list_models()
    assert "My-Net" in list_models(task="pansharpening", family="learned")
    assert "My-Net" not in list_models(task="hmif")
    network = build_model("my_net", img_channel=4, condition_channel=1, out_channel=4)
    lms, pan = torch.rand(1, 4, 16, 16), torch.rand(1, 1, 16, 16)
    assert network(torch.rand(1, 4, 4, 4), lms, pan).shape == lms.shape


def test_a_new_file_is_picked_up_by_the_parametrised_test(tmp_path):
    """Collect tests/test_models.py with the folder named: the new method stands in its cases, with no other edit."""
    (tmp_path / "net.py").write_text(NEW_METHOD.format(name="MyNet", more=""))
    code = """
        import sys
        sys.path.insert(0, "tests")
        import test_models
        print(("MyNet", "pansharpening", 4, 4) in test_models.cases(), "MyNet" in test_models.LEARNED)
    """
    assert run_python(code, LEMAMBA_MODEL_PATH=str(tmp_path)).split() == ["True", "True"]


def test_names_come_from_the_sources_not_from_file_names():
    """The published file name of LE-Mamba is that of another network."""
    assert (model_entry("LEMamba").path.name, model_entry("LEMamba").class_name) == ("panMamba.py", "LEMamba")
    assert (model_entry("PanMamba").path.name, model_entry("PanMamba").class_name) == ("pan_mamba_net.py", "PanMamba")


def test_names_ignore_case_dash_and_underscore():
    assert {normalise(n) for n in ("LEMamba", "le_mamba", "LE-Mamba")} == {"lemamba"}
    assert model_entry("MTF_GLP_fs").name == "MTF-GLP-FS"
    assert model_entry("pannet") is not None


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(UserError, match=r'unknown architecture "PanNetz" \(did you mean "PanNet"\?\)'):
        build_model("PanNetz", img_channel=4, condition_channel=1, out_channel=4)


def test_unknown_argument_suggests_the_nearest():
    with pytest.raises(UserError, match=r'PanNet has no argument "dept" \(did you mean "depth"\?\)'):
        build_model("PanNet", img_channel=4, condition_channel=1, out_channel=4, dept=3)


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        ("PanNet", {"width": "wide"}),
        ("PanNet", {"width": 8.5}),
        ("PanNet", {"depth": True}),
        ("PanNet", {"width": -4}),
        ("PNN", {"widths": [64, "x"]}),
        ("LEMamba", {"drop_path_rate": "much"}),
        ("LEMamba", {"state_grad": "half"}),
        ("LEMamba", {"ssm_enc_blk_nums": 2}),
        ("LEMamba", {"window_sizes": [8, "x", None]}),
        ("LEMamba", {"share_local_state": "perhaps"}),
    ],
)
def test_an_argument_of_another_type_is_a_user_error(name, argument):
    """They come from YAML files and --set, where "8.5" is as easily written as 8."""
    (key,) = argument
    with pytest.raises(UserError, match=f'{name}: expected "{key}" to be of type '):
        build_model(name, img_channel=4, condition_channel=1, out_channel=4, **argument)


def test_missing_argument_is_a_user_error():
    with pytest.raises(UserError, match="condition_channel"):
        build_model("PanNet", img_channel=4, out_channel=4)


def test_two_of_one_name_are_an_error(tmp_path):
    (tmp_path / "a.py").write_text(NEW_METHOD.format(name="MyNet", more=""))
    (tmp_path / "b.py").write_text(NEW_METHOD.format(name="my_net", more=""))
    with pytest.raises(UserError, match="registered twice"):
        scan_folder(tmp_path)


def test_an_edited_file_is_read_again(tmp_path):
    file = tmp_path / "net.py"
    file.write_text(NEW_METHOD.format(name="First", more=""))
    assert list(scan_folder(tmp_path)) == ["first"]
    file.write_text(NEW_METHOD.format(name="TheSecond", more=""))
    assert list(scan_folder(tmp_path)) == ["thesecond"]


def test_missing_folder_is_a_user_error(tmp_path, monkeypatch):
    monkeypatch.setenv("LEMAMBA_MODEL_PATH", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="is not a folder"):
        list_models()


def test_listing_reads_facts_without_importing_the_file(tmp_path, monkeypatch):
    broken = NEW_METHOD.format(name="Broken", more=', family="classical", tileable=False') + "\nraise RuntimeError\n"
    (tmp_path / "broken.py").write_text(broken)
    monkeypatch.setenv("LEMAMBA_MODEL_PATH", str(tmp_path))
    entry = model_entry("broken")
    assert (entry.tasks, entry.ratios, entry.family) == (("pansharpening",), (4,), "classical")
    assert entry.traits == replace(FAMILIES["classical"], tileable=False)
    assert "Broken" in list_models(family="classical")
    with pytest.raises(RuntimeError):
        build_model("Broken", img_channel=4, condition_channel=1, out_channel=4)
    with pytest.raises(RuntimeError):  # a failed import leaves no half-made module behind
        build_model("Broken", img_channel=4, condition_channel=1, out_channel=4)


def test_listing_imports_no_architecture():
    code = """
        import sys
        from lemamba import model
        model.list_models()
        print([m for m in sys.modules if m.startswith("lemamba.model.")])
    """
    assert run_python(code).strip() == "[]"


def test_every_name_is_spelled_once_and_listed_in_order():
    names = list_models()
    assert names == sorted(names, key=str.lower)
    assert len({normalise(n) for n in names}) == len(names)


def test_the_class_carries_the_traits_that_its_entry_declares():
    for name in ("GSA", "Brovey", "PanNet"):
        assert model_class(name).traits == model_entry(name).traits
    assert model_class("PanNet").traits == Traits()
    assert model_class("GSA").traits == replace(FAMILIES["classical"], tileable=False)


def test_one_trait_can_differ_from_the_family(tmp_path, monkeypatch):
    file = tmp_path / "zero_shot.py"
    file.write_text(NEW_METHOD.format(name="ZeroShot", more=", needs_weights=False, trained=False, adapts=True"))
    monkeypatch.setenv("LEMAMBA_MODEL_PATH", str(tmp_path))
    expected = Traits(needs_weights=False, trained=False, adapts=True)
    assert model_entry("ZeroShot").traits == model_class("ZeroShot").traits == expected
    assert "ZeroShot" in list_models(family="learned")


def test_a_wrong_option_is_an_error_that_names_the_file(tmp_path):
    for more, message in (
        (", classical=True", r'has no option "classical" \(write family="classical"\)'),
        (", clasical=True", 'has no option "clasical"'),
        (", tilable=False", r'has no option "tilable" \(did you mean "tileable"\?\)'),
        (", family='deep'", 'unknown family "deep"; known: learned, classical'),
    ):
        (tmp_path / "net.py").write_text(NEW_METHOD.format(name="MyNet", more=more))
        with pytest.raises(UserError, match=rf'net.py: register_model\("MyNet"\).*{message}'):
            scan_folder(tmp_path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("register_model\ndef half(:\n", "line 2: "),
        (NEW_METHOD.replace('"{name}"', "NAME").format(more=""), "line 6: expected literals in register_model"),
        (NEW_METHOD.format(name="Mine", more=", tasks=TASKS").replace('tasks=("pansharpening",), ', ""), "literals"),
        ("from x import register_model\n@register_model()\nclass A: ...\n", "line 2: expected literals"),
        (NEW_METHOD.format(name="Mine", more=", clasical=True"), 'no option "clasical"'),
        (b"register_model \xff\xfe", "utf-8"),
        ("register_model = " + "(" * 5000, "net.py"),
    ],
)
def test_a_broken_file_breaks_nothing_but_itself_and_is_named(tmp_path, monkeypatch, capsys, text, reason):
    (tmp_path / "net.py").write_bytes(text if isinstance(text, bytes) else text.encode())
    (tmp_path / "other.py").write_text(NEW_METHOD.format(name="Other", more=""))
    monkeypatch.setenv("LEMAMBA_MODEL_PATH", str(tmp_path))
    names = list_models()
    assert "Other" in names and "LEMamba" in names and "Mine" not in names
    assert model_entry("EXP").name == "EXP"
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1 and shown.startswith("warning: left out: ") and "net.py" in shown
    assert reason in shown
    with pytest.raises(UserError, match=r'unknown architecture "Mine".*left out: .*net.py.*LEMAMBA_MODEL_PATH'):
        model_entry("Mine")
    assert capsys.readouterr().err == "", "once is enough"


def test_a_name_in_two_files_of_one_s_own_is_left_out_and_named(tmp_path, monkeypatch, capsys):
    for file in ("a.py", "b.py"):
        (tmp_path / file).write_text(NEW_METHOD.format(name="Twice", more=""))
    monkeypatch.setenv("LEMAMBA_MODEL_PATH", str(tmp_path))
    assert "Twice" not in list_models()
    assert "registered twice" in capsys.readouterr().err
    with pytest.raises(UserError, match="registered twice"):
        model_entry("Twice")


def test_a_name_that_hides_a_built_in_one_is_told(tmp_path, monkeypatch, capsys):
    file = tmp_path / "p.py"
    file.write_text(NEW_METHOD.format(name="pnn", more=""))
    monkeypatch.setenv("LEMAMBA_MODEL_PATH", str(tmp_path))
    assert model_entry("PNN").path == file
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1 and f'"pnn" of {file} replaces "PNN" of' in shown and "model/pnn.py" in shown


def test_settings_of_a_network_of_one_s_own_lie_next_to_its_file(tmp_path, monkeypatch):
    """They are not LE-Mamba's, with a YAML or without; nor, for a name that hides another one, that one's."""
    (tmp_path / "sub").mkdir()
    for name in ("MyNet", "PNN", "Bare"):
        (tmp_path / "sub" / f"{name}.py").write_text(NEW_METHOD.format(name=name, more=""))
    (tmp_path / "sub/my_net_config.yaml").write_text("optimizer: {lr: 0.25}\nmodel: {variants: {tiny: {}, big: {}}}")
    monkeypatch.setenv("LEMAMBA_MODEL_PATH", str(tmp_path))
    mine, layers = config.resolve_layers({"model": {"arch": "MyNet", "variant": "big"}})
    assert mine.optimizer.lr == 0.25
    assert config.source_of("optimizer.lr", layers) == str(tmp_path / "sub/my_net_config.yaml")
    for arch in ("MyNet", "PNN", "Bare"):
        plain = config.resolve({"model": {"arch": arch}})
        assert (plain.loss.name, plain.train.clip_norm, plain.train.ema_decay) == ("l1", None, None)
        assert plain.train.grad_accum_steps == 1 and plain.optimizer.name == "adam"
