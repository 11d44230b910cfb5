"""Networks shared as folders and through the hub: the round trip changes nothing, and the card is that of training."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import urlsplit

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


# --------------------------------------------------------------------------------------- a hub of one model, over HTTP

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(http.server.BaseHTTPRequestHandler):
    """The requests of huggingface_hub that an upload and a download make; every file travels in the commit."""

    files: dict[str, bytes]
    asked: list[str]

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, content: bytes, **headers: str) -> None:
        self.send_response(200)
        for name, value in {"Content-Length": str(len(content)), "X-Repo-Commit": COMMIT, **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_POST(self) -> None:
        sent = self.rfile.read(int(self.headers["Content-Length"]))
        path, root = urlsplit(self.path).path, f"http://{self.headers['Host']}"
        self.asked.append(path)
        said: dict[str, object] = {}
        if path == "/api/repos/create":
            said = {"url": f"{root}/user/name"}
        elif "/preupload/" in path:
            names = [file["path"] for file in json.loads(sent)["files"]]
            said = {"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]}
        elif "/commit/" in path:
            for entry in map(json.loads, sent.splitlines()):
                if entry["key"] == "file":
                    self.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            said = {"success": True, "commitOid": COMMIT, "commitUrl": f"{root}/user/name/commit/{COMMIT}"}
        self.answer(json.dumps(said).encode(), Content_Type="application/json")

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if "/resolve/" in path:
            content = self.files[path.partition(f"/resolve/{COMMIT}/")[2]]
            self.answer(content, ETag=f'"{hashlib.sha256(content).hexdigest()}"')
            return
        oid = {"type": "file", "oid": COMMIT}
        tree = [{**oid, "path": name, "size": len(content)} for name, content in self.files.items()]
        siblings = [{"rfilename": name} for name in self.files]
        found = tree if "/tree/" in path else {"id": "user/name", "sha": COMMIT, "siblings": siblings}
        self.answer(json.dumps(found).encode(), Content_Type="application/json")

    def do_HEAD(self) -> None:
        self.do_GET()


def test_another_process_reads_what_was_uploaded_over_http(trained, tmp_path, monkeypatch):
    """huggingface_hub itself on both sides of a server of this test: weights, description, card and picture."""
    Image = pytest.importorskip("PIL.Image")
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a scene.png")
    handler = type("OneHub", (Hub,), {"files": {}, "asked": []})
    network, given = lemamba.load(trained, device="cpu"), images()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
        monkeypatch.setenv("HF_TOKEN", "hf_none")
        assert lemamba.push_to_hub(network, "user/name", pictures=[tmp_path / "a scene.png"]) == f"{address}/user/name"
        code = (
            "import sys, torch, lemamba\n"
            "network = lemamba.from_pretrained('user/name', device='cpu')\n"
            "torch.save(network(*torch.load(sys.argv[1])).detach(), sys.argv[2])"
        )
        torch.save(given, tmp_path / "given.pt")
        own = os.environ | {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "cache"), "HF_TOKEN": "hf_none"}
        words = [sys.executable, "-c", code, str(tmp_path / "given.pt"), str(tmp_path / "sr.pt")]
        subprocess.run(words, env=own, cwd=Path(lemamba.__file__).parent.parent, check=True, timeout=300)
        server.shutdown()
    with torch.no_grad():
        assert torch.equal(torch.load(tmp_path / "sr.pt"), network(*given))
    assert sorted(handler.files) == ["README.md", "a scene.png", "model.json", "model.safetensors"]
    assert b"![a scene](a%20scene.png)" in handler.files["README.md"]
    assert handler.files["a scene.png"] == (tmp_path / "a scene.png").read_bytes()
    cached = {path.name for path in (tmp_path / "cache").rglob("*") if path.is_file() or path.is_symlink()}
    assert {"model.safetensors", "model.json", "README.md"} <= cached and "a scene.png" not in cached


def test_a_picture_that_is_none_is_refused_before_anything_is_written(trained, tmp_path):
    for wrong in (tmp_path / "none.png", trained):
        with pytest.raises(UserError, match="expected a PNG or JPEG file as picture"):
            lemamba.save_pretrained(trained, tmp_path / "shared", pictures=[wrong])
    assert not (tmp_path / "shared").exists()
