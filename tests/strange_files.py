"""Malformed files: small valid ones with parts changed, and formally correct ones with absurd contents.

`inputs(reader, good)` is a hypothesis strategy of functions (folder, good files) -> path of the file to read.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
import sys
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import torch
import yaml
from hypothesis import strategies as st
from small_files import SIZES, tif

from lemamba.engine.training.checkpoint import sign
from lemamba.utils.config import SECTIONS

STEP = "log/p/run/checkpoints/step_00000001"

# ------------------------------------------------------------------------------------------ changed files

PLACES = st.one_of(st.floats(0, 1), st.integers(0, 2500))  # anywhere, or early, where the structure is
NUMBERS = st.one_of(
    st.sampled_from([0, 1, 2, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1]),
    st.integers(0, 2**64 - 1),
)
WORDS = st.sampled_from(
    [*b": {}[],&*!|>-\n\t'\"#%@`?~.\0\xff".split(b" "), b"<<: *a", b"&a ", b"*a", b"!!python/name:os.system", b"null",
     b"1e999", b"-1", b"[" * 40, b"\x1b[31m", b"\xed\xa0\x80", b"../../x", b"nan", b"true", b"9" * 50, b"\\u0000"]
)  # fmt: skip
CHANGE = st.one_of(
    st.tuples(st.just("byte"), PLACES, st.integers(0, 255)),
    st.tuples(st.just("bit"), PLACES, st.integers(0, 7)),
    st.tuples(st.just("number"), PLACES, NUMBERS, st.sampled_from(["<H", ">H", "<I", ">I", "<Q", ">Q"])),
    st.tuples(st.just("cut"), PLACES, st.integers(1, 300)),
    st.tuples(st.just("end"), PLACES),
    st.tuples(st.just("insert"), PLACES, st.one_of(WORDS, st.binary(max_size=16))),
    st.tuples(st.just("copy"), PLACES, PLACES, st.integers(1, 200)),
)


def changed(content: bytes, changes: list[tuple]) -> bytes:
    """Apply changes one after the other."""
    data = bytearray(content)

    def at(place: float) -> int:
        return min(place if isinstance(place, int) else int(place * len(data)), len(data))

    for kind, place, *rest in changes:
        start = at(place)
        if kind == "byte":
            data[start : start + 1] = bytes([rest[0]])
        elif kind == "bit" and start < len(data):
            data[start] ^= 1 << rest[0]
        elif kind == "number":
            size = struct.calcsize(rest[1])
            data[start : start + size] = struct.pack(rest[1], rest[0] % 256**size)
        elif kind == "cut":
            del data[start : start + rest[0]]
        elif kind == "end":
            del data[start:]
        elif kind == "insert":
            data[start:start] = rest[0]
        elif kind == "copy":
            source = at(rest[0])
            data[start : start + rest[1]] = data[source : source + rest[1]]
    return bytes(data)


def change_file(name: str, changes: list[tuple], folder: Path, good: dict[str, bytes]) -> Path:
    """Write a good file with changes; of a checkpoint also the other files, with checksums that fit the changed one."""
    content = changed(good[name], changes)
    if "state.json" not in good:
        return forge_file(f"input{Path(name).suffix}", content, folder, good)
    files = good | {name: content}
    if name != "state.json":
        facts = {n: file_facts(c) for n, c in files.items() if n != "state.json"}
        files["state.json"] = signed(json.loads(good["state.json"]) | {"files": facts})
    return write_checkpoint(folder, files)


def write_checkpoint(folder: Path, files: dict[str, bytes]) -> Path:
    path = folder / STEP / "state.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path.with_name(name).write_bytes(content)
    return path


def file_facts(content: bytes) -> dict[str, object]:
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def signed(state: dict) -> bytes:
    """Return state.json with a correct checksum, whatever its contents."""
    return sign({k: v for k, v in state.items() if k != "sha256"})


# ------------------------------------------------------------------------------------------ forged files

SIZE = st.sampled_from([0, 1, 2, 3, 4, 16, 24, 2**20, 2**31, 2**40])
SHAPES = st.one_of(st.none(), st.lists(SIZE, max_size=6).map(tuple))
DTYPES = st.sampled_from(
    ["f4", "f8", ">f8", "f2", "u1", "u2", "i8", "?", "c8", "S5", "V3", "text", "pair", "reference"]
)
STORAGE = st.sampled_from(
    ["plain", "chunked", "empty", "unfilled", "external link", "soft link", "loop", "raw", "virtual", "group", "type"]
)
ATTRIBUTE = st.sampled_from(
    [2047.0, "QB", b"\xff\xfe", "WV3\n\x1b[31m", float("nan"), -1.0, 1e-320, np.arange(5), np.zeros(0), [b"a", b"b"],
     h5py.Empty("f4"), np.bytes_("logical"), np.bytes_("char"), np.uint8(1), "9" * 2000]
)  # fmt: skip


def h5_dtype(name: str):
    named = {"text": h5py.string_dtype(), "pair": np.dtype([("a", "f4"), ("b", "f4")]), "reference": h5py.ref_dtype}
    return named.get(name) or np.dtype(name)


def forge_dataset(file: h5py.File, key: str, shape: tuple | None, dtype: str, storage: str) -> None:
    """Put something under `key`; what HDF5 itself refuses to write is left out."""
    shape, kind = SIZES.get(key, (3, 2)) if shape is None else shape, h5_dtype(dtype)
    chunks = tuple(max(1, min(n, 4)) for n in shape) or None
    if storage == "external link":
        file[key] = h5py.ExternalLink("plain.h5", "gt")
    elif storage in ("soft link", "loop"):
        file[key] = h5py.SoftLink("/nowhere" if storage == "soft link" else f"/{key}")
    elif storage == "group":
        file.create_group(f"{key}/{key}")
    elif storage == "type":
        file[key] = kind
    elif storage == "empty":
        file[key] = h5py.Empty(kind)
    elif storage == "raw":
        file.create_dataset(key, shape, kind, external=[("/etc/hostname", 0, 2**40)])
    elif storage == "virtual":
        layout = h5py.VirtualLayout(shape, kind)
        layout[...] = h5py.VirtualSource("plain.h5", "gt", shape=shape)
        file.create_virtual_dataset(key, layout)
    elif storage == "unfilled" or np.prod([float(n) for n in shape]) > 10_000:
        file.create_dataset(key, shape, kind, chunks=chunks, maxshape=(None,) * len(shape), fillvalue=None)
    else:
        packed = {"chunks": chunks, "compression": "gzip"} if storage == "chunked" and chunks else {}
        file.create_dataset(key, shape, kind, **packed)


def forge_h5(members: dict, attributes: dict, suffix: str, folder: Path, good: dict[str, bytes]) -> Path:
    """Write what h5py can write of these members; `suffix` .mat puts it behind a v7.3 header."""
    (folder / "plain.h5").write_bytes(good.get("plain.h5", b""))
    path = folder / f"input{suffix}"
    path.unlink(missing_ok=True)
    with h5py.File(path, "w", userblock_size=512 if suffix == ".mat" else 0) as file:
        for key, what in members.items():
            try:
                forge_dataset(file, key, *what)
                for name, value in attributes.items():
                    (file if suffix == ".h5" else file[key]).attrs[name] = value
            except (ValueError, TypeError, OSError, KeyError, RuntimeError, OverflowError):
                continue
    return path


def h5_members(keys: tuple[str, ...]) -> st.SearchStrategy:
    usual = st.tuples(st.none(), st.sampled_from(["f4", "u2"]), st.sampled_from(["plain", "chunked"]))
    return st.fixed_dictionaries({}, optional={k: usual | st.tuples(SHAPES, DTYPES, STORAGE) for k in keys})


def forge_file(name: str, content: bytes, folder: Path, good: dict[str, bytes]) -> Path:
    """Write a new file: HDF5 takes one with a known inode for the damaged one before, if that could not be closed."""
    path = folder / name
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    return path


SCALAR = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.just(10**400), st.just("a\nb\x1b[0m")
)
JSON = st.recursive(
    SCALAR, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4)
)
DEEP = st.sampled_from([("[", 100_000, ""), ('{"a":', 100_000, ""), ("[", 3000, "]")]).map(
    lambda p: p[0] * p[1] + p[2] * p[1]
)


def all_options() -> st.SearchStrategy:
    """Known sections and keys, values of any kind."""
    section = {
        name: st.one_of(SCALAR, st.dictionaries(st.sampled_from([*kind.__dataclass_fields__, "x"]), JSON, max_size=3))
        for name, kind in SECTIONS.items()
    }
    return st.fixed_dictionaries({}, optional=section)


def yaml_bytes(content: object) -> bytes:
    try:
        return yaml.safe_dump(content, allow_unicode=True).encode("utf-8", "surrogatepass")
    except (yaml.YAMLError, ValueError):
        return b""


def json_text(content: object) -> str:
    with_long_numbers = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        return json.dumps(content)
    finally:
        sys.set_int_max_str_digits(with_long_numbers)


def safetensors_bytes(header: str, tail: bytes) -> bytes:
    content = header.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(content)) + content + tail


TENSOR = st.fixed_dictionaries(
    {"dtype": st.sampled_from(["F32", "BOOL", "F8_E4M3", "F4", "U64", "C64", "X"]), "shape": st.lists(SIZE, max_size=3),
     "data_offsets": st.tuples(SIZE, SIZE)}
)  # fmt: skip
HEADER = st.one_of(
    DEEP,
    st.dictionaries(st.sampled_from(["weight", "bias", "x"]), TENSOR).map(json_text),
    st.one_of(DEEP, JSON.map(json_text)).map(lambda meta: json_text({"__metadata__": {"meta": meta}})),
)


class Runs:
    """Unpickled, it would print."""

    def __reduce__(self):
        return print, ("code from a weight file ran",)


def torch_bytes(content: object, old: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=not old)
    return buffer.getvalue()


TENSORS = st.sampled_from(
    [torch.ones(2, 3), torch.ones(2), torch.tensor(1.0), torch.zeros(1).expand(2, 3), torch.zeros(1).expand(2**40),
     torch.ones(2, 3).to_sparse(), torch.ones(2, 3, dtype=torch.complex64), torch.empty(2**40, device="meta"),
     torch.nn.Parameter(torch.ones(2))]
)  # fmt: skip
KEYS = st.sampled_from(["weight", "bias", "module.weight", "state_dict", "params", "net", 3, None, ("a", 1)])
PICKLED = st.recursive(
    st.one_of(TENSORS, SCALAR, st.builds(Runs)),
    lambda inner: st.dictionaries(KEYS, inner, max_size=3) | st.lists(inner, max_size=3),
)


VRT = """<VRTDataset rasterXSize="52" rasterYSize="44"><SRS>EPSG:32633</SRS>
<GeoTransform>500000, 0.5, 0, 4100000, 0, -0.5</GeoTransform><VRTRasterBand dataType="Byte" band="1"><SimpleSource>
<SourceFilename relativeToVRT="{relative}">{source}</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>"""
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "nodata": st.sampled_from([0, 7, float("nan"), -1e300]),
        "pixel": st.sampled_from([0.5, 2.0, 0.0, -2.0, 1e-300, 1e300, float("nan"), float("inf")]),
        "left": st.sampled_from([500001.3, 1e300, float("nan")]),
        "crs": st.sampled_from([None, "EPSG:4326"]),
        "compress": st.sampled_from(["deflate", "lzw", "lerc", "zstd", "packbits"]),
        "photometric": st.sampled_from(["rgb", "ycbcr", "palette", "cielab"]),
        "alpha": st.just("yes"),
        "sparse_ok": st.just(True),
    },
)


def forge_tif(dtype: str, shape: tuple, options: dict, folder: Path, good: dict[str, bytes]) -> Path:
    """Write what GDAL can write of these options; otherwise a VRT that refers to other files."""
    path = folder / "input.tif"
    path.unlink(missing_ok=True)  # rasterio would look into what it replaces
    try:
        tif(path, np.ones(shape, dtype), **options)
    except (ValueError, TypeError, OSError, RuntimeError, OverflowError, AttributeError, KeyError):
        path.write_text(VRT.format(relative=len(options) % 2, source=["/etc/hostname", "good_pan.tif"][len(dtype) % 2]))
    return path


def forge_checkpoint(state: object, folder: Path, good: dict[str, bytes]) -> Path:
    content = state.encode() if isinstance(state, str) else signed(json.loads(good["state.json"]) | state)
    return write_checkpoint(folder, good | {"state.json": content})


FILES = st.dictionaries(
    st.sampled_from(["model.safetensors", "../state.json", "/dev/zero", "/etc/hostname", "", ".", "\0", "x" * 300]),
    st.one_of(SCALAR, st.fixed_dictionaries({"bytes": SIZE, "sha256": st.text(max_size=4)})),
)
FORGED = {
    "h5": st.builds(
        partial,
        st.just(forge_h5),
        h5_members(("ms", "lms", "pan", "gt")),
        st.fixed_dictionaries({}, optional={"sensor": ATTRIBUTE, "divisor": ATTRIBUTE}),
        st.just(".h5"),
    ),
    "mat": st.builds(
        partial,
        st.just(forge_h5),
        h5_members(("I_MS", "I_PAN", "L", "sensor", "Y", "nRow", "nCol")),
        st.fixed_dictionaries({}, optional={"MATLAB_class": ATTRIBUTE, "MATLAB_empty": ATTRIBUTE}),
        st.just(".mat"),
    ),
    "geotiff": st.builds(
        partial,
        st.just(forge_tif),
        st.sampled_from(["uint8", "uint16", "int8", "int64", "float32", "float64", "complex64", "bool", "S3"]),
        st.tuples(st.sampled_from([1, 2, 4, 40]), st.sampled_from([1, 11, 44]), st.sampled_from([1, 13, 52])),
        OPTIONS,
    ),
    "config": st.builds(
        partial,
        st.just(forge_file),
        st.just("input.yaml"),
        st.one_of(
            all_options().map(yaml_bytes),
            JSON.map(yaml_bytes),
            st.lists(WORDS | st.sampled_from([s.encode() for s in SECTIONS]), max_size=40).map(b"".join),
            st.text(max_size=80).map(lambda text: text.encode("utf-8", "surrogatepass")),
            DEEP.map(str.encode),
        ),
    ),
    "weights": st.one_of(
        st.builds(
            partial,
            st.just(forge_file),
            st.just("input.safetensors"),
            st.builds(safetensors_bytes, HEADER, st.sampled_from([b"", bytes(24)])),
        ),
        st.builds(partial, st.just(forge_file), st.just("input.pth"), st.builds(torch_bytes, PICKLED, st.booleans())),
    ),
    "checkpoint": st.builds(
        partial,
        st.just(forge_checkpoint),
        st.one_of(
            DEEP,
            JSON.map(json_text),
            st.fixed_dictionaries({}, optional={"files": st.one_of(JSON, FILES), "format": JSON, "config": JSON}),
            all_options().map(lambda sections: {"config": sections}),
        ),
    ),
}


def inputs(reader: str, good: dict[str, bytes]) -> st.SearchStrategy:
    """Both kinds, half and half where a reader has both."""
    change = st.builds(
        partial, st.just(change_file), st.sampled_from(sorted(good)), st.lists(CHANGE, min_size=1, max_size=4)
    )
    return st.one_of(change, FORGED[reader]) if reader in FORGED else change
