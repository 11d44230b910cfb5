"""Small valid files of the kinds the project reads, for tests that read or damage them.

`MAKERS` writes some of each kind and returns their bytes by name.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import torch
import yaml
from safetensors.torch import save
from scipy.io import savemat

from lemamba.engine.training.checkpoint import Checkpoints
from lemamba.operators import interp23
from lemamba.utils.config import Config, to_dict
from lemamba.utils.formats.mat import write_mat

SIZES = {"gt": (5, 4, 16, 24), "lms": (5, 4, 16, 24), "ms": (5, 4, 4, 6), "pan": (5, 1, 16, 24)}
TO_FILE = {"NCHW": (0, 1, 2, 3), "NHWC": (0, 2, 3, 1), "WHCN": (3, 2, 1, 0)}
HMIF = {"gt": "GT", "ms": "LRHSI", "lms": "HSI_up", "pan": "RGB"}
LEFT, TOP, PIXEL = 500000.0, 4100000.0, 0.5


def values(sizes=SIZES, scale=2047.0):
    """Random samples by role, (N, C, H, W)."""
    generator = np.random.default_rng(3)
    return {key: generator.random(shape) * scale for key, shape in sizes.items()}


def write_h5(path: Path, data, layout="NCHW", rename=None, **attributes) -> Path:
    """Write arrays by role, (N, C, H, W), as an H5 file with its axes in the order of `layout`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for key, value in data.items():
            file[(rename or {}).get(key, key)] = value.transpose(TO_FILE[layout]) if value.ndim == 4 else value
        file.attrs.update(attributes)
    return path


def write_training_set(path: Path, samples: int, seed: int, bands: int = 4, side: int = 32) -> None:
    """Write smooth random samples of ratio 4, whole digital numbers from 0 to 2047, with lms as training expects it."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(samples, bands, side // 4, side // 4, generator=generator)
    gt = (torch.nn.functional.interpolate(coarse, scale_factor=4, mode="bilinear") * 2047).round()
    ms = torch.nn.functional.avg_pool2d(gt, 4).round()
    arrays = {"gt": gt, "ms": ms, "lms": interp23(ms, 4), "pan": gt.mean(1, keepdim=True)}
    write_h5(path, {role: array.numpy() for role, array in arrays.items()})


def write_test_set(path: Path, count: int = 2, size: int = 64, with_gt: bool = True) -> Path:
    """Write `count` random images of 4 bands and ratio 4, float64; without `gt` they are of full resolution."""
    gt = np.random.default_rng(0).uniform(100, 1500, (count, 4, size, size))
    ms = gt[..., 2::4, 2::4]
    arrays = {"ms": ms, "lms": interp23(torch.from_numpy(ms), 4).numpy(), "pan": gt.mean(1, keepdims=True)}
    return write_h5(path, arrays | ({"gt": gt} if with_gt else {}))


def tif(path, image, left=LEFT, top=TOP, pixel=PIXEL, crs="EPSG:32633", down=None, **options):
    """Write `image` (C, H, W) north-up with its upper left corner at (left, top); `options` go to rasterio."""
    import rasterio

    profile = {"driver": "GTiff", "count": len(image), "height": image.shape[1], "width": image.shape[2], "crs": crs}
    transform = options.pop("transform", None) or rasterio.Affine(pixel, 0, left, 0, -(down or pixel), top)
    with rasterio.open(path, "w", dtype=image.dtype, transform=transform, **profile, **options) as file:
        file.write(image)
    return path


def smooth(rows, columns, bands, seed=0, low=200, high=1800):
    """Random smooth uint16 image (C, H, W)."""
    coarse = torch.from_numpy(
        np.random.default_rng(seed).uniform(low, high, (1, bands, rows // 6 + 2, columns // 6 + 2))
    )
    image = torch.nn.functional.interpolate(coarse, size=(rows, columns), mode="bilinear")
    return image[0].round().numpy().astype(np.uint16)


STATE = {
    "counters": {"epoch": 1, "batch": 0, "step": 1},
    "shape": {"processes": 1},
    "schedule": {},
    "optimizer": {"kind": "AdamW", "values": {}},
    "ema_updates": 1,
    "scaler": None,
    "generators": [{}],
}


def small_values():
    return {k: v[:2] for k, v in values().items()}


def make_h5(folder: Path) -> dict[str, bytes]:
    write_h5(folder / "plain.h5", small_values(), sensor="QB", divisor=2047.0)
    write_h5(folder / "matlab.h5", small_values(), "WHCN", HMIF)
    with h5py.File(folder / "packed.h5", "w", libver="latest") as file:
        for key, value in small_values().items():
            file.create_dataset(
                key, data=value.astype(np.uint16), chunks=(1, *value.shape[1:]), compression="gzip", fletcher32=True
            )
    return {name: (folder / name).read_bytes() for name in ("plain.h5", "matlab.h5", "packed.h5")}


def make_mat(folder: Path) -> dict[str, bytes]:
    scene = {"I_MS_LR": np.ones((4, 5, 3), np.uint16), "I_PAN": np.ones((16, 20)), "L": 11, "sensor": "QB"}
    other = {
        "cell": np.array([1, "x"], dtype=object), "s": {"a": 1}, "z": np.ones((2, 2)) * 1j, "Y": np.ones((3, 6)),
        "nRow": 2, "nCol": 3, "yes": np.array([[True]]), "t": np.array(["ab", "cd"]),
    }  # fmt: skip
    savemat(folder / "scene.mat", scene)
    savemat(folder / "packed.mat", scene | other, do_compression=True)
    savemat(folder / "other.mat", other)
    savemat(folder / "old.mat", {"x": np.arange(6.0).reshape(2, 3), "t": "WV3"}, format="4")
    write_mat(folder / "new.mat", {"sr": np.ones((1, 2, 3, 4)), "yes": np.array([[True]])}, dtype=None, v73=True)
    return {p.name: p.read_bytes() for p in folder.glob("*.mat")}


def make_geotiff(folder: Path) -> dict[str, bytes]:
    ms, pan = smooth(11, 13, 4), smooth(44, 52, 1)
    tif(folder / "good_ms.tif", ms, pixel=4 * PIXEL)
    tif(folder / "good_pan.tif", pan)
    tif(folder / "deflated.tif", ms, pixel=4 * PIXEL, compress="deflate", predictor=2, nodata=0)
    tif(folder / "tiled.tif", pan.astype(np.float32), tiled=True, blockxsize=16, blockysize=16, compress="lzw")
    tif(folder / "alpha.tif", ms, pixel=4 * PIXEL, alpha="yes", interleave="band", nodata=7)
    tif(folder / "big.tif", pan, BIGTIFF="YES", compress="packbits")
    return {p.name: p.read_bytes() for p in folder.glob("*.tif")}


def make_config(folder: Path) -> dict[str, bytes]:
    own = Path(__file__).resolve().parent.parent / "configs"
    texts = {name: (own / name).read_bytes() for name in ("LEMamba_config.yaml", "demo.yaml")}
    alias = b"loss: {args: &a {}}\noptimizer: {args: *a}\n"
    return texts | {"all.yaml": yaml.safe_dump(to_dict(Config())).encode(), "alias.yaml": alias}


def make_weights(folder: Path) -> dict[str, bytes]:
    state = {"weight": torch.ones(2, 3), "bias": torch.zeros(2)}
    files = {"ours.safetensors": save(state, {"meta": json.dumps({"model": {"name": "x", "args": {}}})})}
    for name, old in (("zip.pth", False), ("old.pth", True)):
        buffer = io.BytesIO()
        torch.save({"state_dict": state, "epoch": 3}, buffer, _use_new_zipfile_serialization=not old)
        files[name] = buffer.getvalue()
    return files


def make_checkpoint(folder: Path) -> dict[str, bytes]:
    tensors = {"model": {"w": torch.ones(3)}, "optimizer": {"m": torch.ones(3)}}
    path = Checkpoints(folder / "x").save(1, tensors, STATE | {"config": to_dict(Config())}, {})
    return {p.name: p.read_bytes() for p in path.iterdir()}


MAKERS: dict[str, Callable[[Path], dict[str, bytes]]] = {
    "h5": make_h5,
    "mat": make_mat,
    "geotiff": make_geotiff,
    "config": make_config,
    "weights": make_weights,
    "checkpoint": make_checkpoint,
}
