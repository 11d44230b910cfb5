"""Networks shared as folders and through the hub: the round trip changes nothing, and the card is that of training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import lemamba
from lemamba.engine.weights import hub
from lemamba.engine.weights.card import folder_card
from lemamba.engine.weights.files import read_weights, save_weights, weights_meta
from lemamba.model import build_model
from lemamba.utils.errors import UserError

huggingface_hub = pytest.importorskip("huggingface_hub")
ARGS = {"img_channel": 4, "condition_channel": 1, "out_channel": 4, "ratio": 4}
META = {
    "model": {"name": "DiCNN", "args": ARGS},
    "data": {"dataset": "ikonos", "sensor": "IKONOS", "divisor": 2047.0, "ratio": 4},
    "metrics": {"ergas": 1.5},
    "facts": {"task": "pansharpening"},
}


@pytest.fixture
def trained(tmp_path) -> Path:
    """The weights of a run, as training writes them."""
    path = tmp_path / "run/weights/best.safetensors"
    save_weights(path, build_model("DiCNN", **ARGS).state_dict(), META, card=True)
    return path


@pytest.fixture(autouse=True)
def _nothing_fetched_before():
    hub.download.cache_clear()
    yield
    hub.download.cache_clear()


def images():
    return torch.rand(1, 4, 4, 4), torch.rand(1, 4, 16, 16), torch.rand(1, 1, 16, 16)


def test_the_round_trip_changes_nothing(trained, tmp_path):
    network = lemamba.load(trained, device="cpu")
    path = lemamba.save_pretrained(network, tmp_path / "shared")
    again = lemamba.from_pretrained(tmp_path / "shared", device="cpu")
    given = images()
    with torch.no_grad():
        assert torch.equal(network(*given), again(*given))
    assert again.trained_on == META["data"] and again.sizes == ARGS
    (old, old_meta), (new, new_meta) = read_weights(trained), read_weights(path)
    assert old_meta == new_meta == META and all(torch.equal(old[key], new[key]) for key in old)
    assert sorted(p.name for p in path.parent.iterdir()) == ["README.md", "model.json", "model.safetensors"]


def test_the_card_is_the_one_of_training(trained, tmp_path):
    path = lemamba.save_pretrained(trained.parent.parent, tmp_path / "shared")
    described = {**META, "sha256": weights_meta(str(path)).get("sha256") or _sha256(path)}
    assert (tmp_path / "shared/README.md").read_text() == folder_card(path, described, path.stat().st_size)
    assert huggingface_hub.ModelCard.load(tmp_path / "shared/README.md").data.library_name == "pytorch"


def _sha256(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_weights_of_the_hub_are_taken_by_name(trained, monkeypatch):
    asked = []

    def fetch(name, **settings):
        asked.append((name, settings["revision"], settings["allow_patterns"]))
        return str(trained.parent)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    given = images()
    with torch.no_grad():
        expected = lemamba.load(trained, device="cpu")(*given)
        assert torch.equal(lemamba.from_pretrained("user/name", device="cpu")(*given), expected)
        assert torch.equal(lemamba.load("hf:user/name@v1", device="cpu")(*given), expected)
    assert [entry[:2] for entry in asked] == [("user/name", None), ("user/name", "v1")]  # once each
    assert not any(pattern.endswith((".bin", ".pth", ".pt", ".pkl", "*")) for pattern in asked[0][2])


def test_an_upload_holds_weights_description_and_card(trained, monkeypatch):
    calls = {}

    class Api:
        def create_repo(self, name, **settings):
            calls["create"] = (name, settings)
            return f"https://example.org/{name}"

        def upload_folder(self, **settings):
            calls["files"] = {p.name: p.read_bytes() for p in Path(settings["folder_path"]).iterdir()}
            calls["name"] = settings["repo_id"]

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    address = lemamba.push_to_hub(lemamba.load(trained, device="cpu"), "user/name", private=True)
    assert address == "https://example.org/user/name" and calls["name"] == "user/name"
    assert calls["create"] == ("user/name", {"private": True, "exist_ok": True})
    assert set(calls["files"]) == {"README.md", "model.json", "model.safetensors"}
    assert b"# DiCNN, trained on ikonos" in calls["files"]["README.md"]


def test_what_goes_wrong_is_one_line(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="expected a model's name USER/NAME on the hub, given 'name'"):
        lemamba.load("hf:name")
    with pytest.raises(UserError, match="expected a network that names itself"):
        lemamba.save_pretrained(torch.nn.Conv2d(1, 1, 1), tmp_path / "none")
    assert not (tmp_path / "none").exists()

    def fail(*_args, **_settings):
        raise huggingface_hub.errors.LocalEntryNotFoundError("no\nnetwork")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(UserError, match="cannot fetch user/name from the hub: no network; check") as error:
        lemamba.from_pretrained("user/name")
    assert "\n" not in str(error.value)
    monkeypatch.setattr(hub.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match="pip install huggingface_hub"):
        lemamba.from_pretrained("user/other")
