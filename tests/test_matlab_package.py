"""The MATLAB/Octave package as a user meets it: folders, files, options, lines, errors. Numbers: test_parity.py.

One run of Octave does everything and prints records; the tests read those. MATLAB itself is not run: what can be
checked of it is that the sources keep to the language both share.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from benchmarks.parity_cases import full_case, reduced_case
from benchmarks.parity_metrics import INSTALL_OCTAVE, PACKAGE, find_octave, run_octave
from lemamba.metrics import FULL_NAMES, INDICES, REDUCED_NAMES
from lemamba.utils.formats.mat import write_mat

SOURCES = sorted(p for p in PACKAGE.rglob("*.m") if p.name != "Contents.m")
SCRIPTS = sorted(PACKAGE.glob("analysis_*.m"))
PUBLIC = [*SCRIPTS, *sorted((PACKAGE / "Quality_Indices").glob("[a-z]*.m"))]

# name -> (call, identifier of the error it must raise)
ERRORS = {
    "too few arguments": ("analysis_ref_batched_images('ref.mat', 4)", "arguments"),
    "no const": ("analysis_ref_batched_images('ref.mat', 4, 0, 'published')", "arguments"),
    "unknown option": ("analysis_ref_batched_images('ref.mat', 4, 0, 2047, 'publishd')", "arguments"),
    "name of file is a number": ("analysis_ref_batched_images(3, 4, 0, 2047)", "arguments"),
    "sensor is a number": ("analysis_unref_batched_images('unref.mat', 4, 5)", "arguments"),
    "argument order": ("analysis_ref_batched_images('ref.mat', 4, 2047, 1)", "arguments"),
    "const 1 for digital numbers": ("analysis_ref_batched_images('ref.mat', 4, 1, 1)", "const"),
    "const 255 for 11 bits": ("analysis_ref_batched_images('ref.mat', 4, 0, 255)", "const"),
    "const 2047 for [0, 1]": ("analysis_ref_batched_images('unit.mat', 4, 0, 2047)", "const"),
    "const 2047 for [0, 1] without reference": (
        "analysis_unref_batched_images('unit_full.mat', 4, 'none', 2047)",
        "const",
    ),
    "flag_cut_bounds 1": ("analysis_ref_unbatched_images('one', 4, 'wv3', 1)", "arguments"),
    "flag_cut_bounds 1 without reference": (
        "analysis_unref_unbatched_images('one_full', 4, 'IKONOS', 1, 1)",
        "arguments",
    ),
    "sensor without a largest value": ("analysis_ref_unbatched_images('one', 4, 'none')", "sensor"),
    "ratio as text": ("analysis_ref_batched_images('ref.mat', '4', 0, 2047)", "ratio"),
    "folder for a batch": ("analysis_ref_batched_images('one', 4, 0, 2047)", "noFile"),
    "file for a folder": ("analysis_ref_unbatched_images('ref.mat', 4, 0, 2047)", "noFile"),
    "no variable is there": ("analysis_ref_batched_images('capitals.mat', 4, 0, 2047)", "missingKey"),
    "complex": ("analysis_ref_batched_images('complex.mat', 4, 0, 2047)", "notNumeric"),
    "cell": ("analysis_ref_batched_images('cell.mat', 4, 0, 2047)", "notNumeric"),
    "struct": ("analysis_ref_batched_images('struct.mat', 4, 0, 2047)", "notNumeric"),
    "another ratio than the file says": ("analysis_ref_batched_images('facts.mat', 8, 0, 2047)", "ratio"),
    "another peak than the file says": ("analysis_ref_batched_images('facts.mat', 4, 0, 1800)", "const"),
    "another peak than the v7.3 file says": ("analysis_ref_batched_images('facts73.mat', 4, 0, 1800)", "const"),
    "another sensor than the file says": ("analysis_unref_batched_images('facts_full.mat', 4, 'IKONOS')", "sensor"),
    "no such mask": ("analysis_ref_batched_images('ref.mat', 4, 0, 2047, 'mask', 'clouds')", "missingKey"),
    "no file": ("analysis_ref_batched_images('nothing.mat', 4, 0, 2047)", "noFile"),
    "no folder": ("analysis_ref_unbatched_images('nothing', 4, 0, 2047)", "noFile"),
    "not a mat file": ("analysis_ref_batched_images('text.mat', 4, 0, 2047)", "notMat"),
    "truncated v5": ("analysis_ref_batched_images('cut5.mat', 4, 0, 2047)", "notMat|missingKey"),
    "truncated v7.3": ("analysis_ref_batched_images('cut73.mat', 4, 0, 2047)", "notMat|missingKey"),
    "missing key": ("analysis_ref_batched_images('unref.mat', 4, 0, 2047)", "missingKey"),
    "text in place of numbers": ("analysis_ref_batched_images('words.mat', 4, 0, 2047)", "notNumeric"),
    "one image in a batched call": ("analysis_ref_batched_images('one/output_mulExm_2.mat', 4, 0, 2047)", "shape"),
    "sizes differ": ("analysis_ref_batched_images('sizes.mat', 4, 0, 2047)", "shape"),
    "NaN": ("analysis_ref_batched_images('nan.mat', 4, 0, 2047)", "notFinite"),
    "side under 32": ("analysis_ref_batched_images('small.mat', 4, 0, 2047)", "tooSmall"),
    "ratio 0": ("analysis_ref_batched_images('ref.mat', 0, 0, 2047)", "ratio"),
    "ratio 2.5": ("analysis_unref_batched_images('unref.mat', 2.5, 'none')", "ratio"),
    "ratio of another file": ("analysis_unref_batched_images('unref.mat', 2, 'none')", "shape"),
    "ratio 8 as published": ("analysis_unref_batched_images('ratio8.mat', 8, 'none', 'published')", "ratio"),
    "no multiple of 32": ("analysis_unref_batched_images('odd.mat', 4, 'none')", "size"),
    "unknown sensor": ("analysis_unref_batched_images('unref.mat', 4, 'IKNOS')", "sensor"),
    "too few bands": ("analysis_unref_batched_images('unref.mat', 4, 'WV3')", "bands"),
    "co-registration without its indices": (
        "analysis_unref_batched_images('unref.mat', 4, 'none', 'coregister', 1)",
        "arguments",
    ),
    "co-registration with an image": (
        "analysis_unref_batched_images('unref.mat', 4, 'none', 'indices', 'all', 'coregister', [1 2])",
        "arguments",
    ),
    "too many bands": ("analysis_unref_batched_images('eight.mat', 4, 'IKONOS')", "bands"),
}

# name -> a call whose result and printed lines the tests look at
CALLS = {
    "ref": "analysis_ref_batched_images('ref.mat', 4, 0, 2047)",
    "full_res": "analysis_ref_batched_images('ref.mat', 4, true, 2047)",
    "option first": "analysis_ref_batched_images('ref.mat', 4, 0, 'published', 2047)",
    "v7.3": "analysis_ref_batched_images('ref73.mat', 4, 0, 2047)",
    "v7.3 with company": "analysis_ref_batched_images('company73.mat', 4, 0, 2047)",
    "v7.3 integers": "analysis_ref_batched_images('integers73.mat', 4, 0, 2047)",
    "v5 integers": "analysis_ref_batched_images('integers.mat', 4, 0, 2047)",
    "unbatched": "analysis_ref_unbatched_images('one', 4, 0, 2047)",
    "one sample": "analysis_ref_batched_images('single.mat', 4, 0, 2047)",
    "one of two equal": "analysis_ref_batched_images('equal.mat', 4, 0, 2047)",
    "unit": "analysis_ref_batched_images('unit.mat', 4, 0, 1)",
    "unit published": "analysis_ref_batched_images('unit.mat', 4, 0, 1, 'published')",
    "published unbatched": "analysis_ref_unbatched_images('one', 4, 'wv3', 0, 1)",
    "published unbatched, quiet": "analysis_ref_unbatched_images('one', 4, 'wv3', 0, 0)",
    "facts": "analysis_ref_batched_images('facts.mat', 4, 0, 2047)",
    "facts of another spelling": "analysis_unref_batched_images('facts_full.mat', 4, 'QuickBird')",
    "black": "analysis_ref_batched_images('black.mat', 4, 0, 2047)",
    "many": "analysis_ref_batched_images('many.mat', 4, 0, 2047)",
    "unref": "analysis_unref_batched_images('unref.mat', 4, 'ikonos')",
    "unref v7.3": "analysis_unref_batched_images('unref73.mat', 4, 'IKONOS')",
    "unref unbatched": "analysis_unref_unbatched_images('one_full', 4, 'IKONOS')",
    "unref published order": "analysis_unref_unbatched_images('one_full', 4, 'IKONOS', 0, 1)",
    "unref ratio 3": "analysis_unref_batched_images('ratio3.mat', 3, 'none', 'indices', 'all')",
    "unref const": "analysis_unref_batched_images('unref.mat', 4, 'IKONOS', 'published', 2047)",
    "GF2": "analysis_unref_batched_images('unref.mat', 4, 'GF2')",
    "alias": "analysis_unref_batched_images('unref.mat', 4, 'Quick-Bird', 'published')",
    "QB published": "analysis_unref_batched_images('unref.mat', 4, 'QB', 'published')",
    "unref unit": "analysis_unref_batched_images('unit_full.mat', 4, 'none')",
    "unref eight": "analysis_unref_batched_images('ratio8.mat', 8, 'CAVE')",
}


def _batch(cases: list, name: str) -> np.ndarray:
    return np.concatenate([case.images[name] for case in cases]).astype(np.float32)


def _write_files(folder: Path) -> None:
    """Every file that CALLS and ERRORS name."""
    pair = [reduced_case("", seed, 4, 40, 36) for seed in (1, 2)]
    ref = {name: _batch(pair, name) for name in ("sr", "gt")}
    savemat(folder / "ref.mat", ref)
    write_mat(folder / "ref73.mat", ref, v73=True)
    integers = {name: np.rint(np.clip(v, 0, 65535)).astype(np.uint16) for name, v in ref.items()}
    savemat(folder / "integers.mat", integers)
    write_mat(folder / "integers73.mat", integers, dtype=None, v73=True)
    _write_company(folder / "company73.mat", ref)
    savemat(folder / "single.mat", {name: v[:1] for name, v in ref.items()})
    savemat(folder / "equal.mat", {"sr": np.stack([ref["sr"][0], ref["gt"][1]]), "gt": ref["gt"]})
    savemat(folder / "unit.mat", {name: v / 2047 for name, v in ref.items()})
    savemat(folder / "sizes.mat", {"sr": ref["sr"][..., :32], "gt": ref["gt"]})
    savemat(folder / "small.mat", {name: v[..., :31] for name, v in ref.items()})
    savemat(folder / "nan.mat", {"sr": np.where(ref["sr"] == ref["sr"].max(), np.nan, ref["sr"]), "gt": ref["gt"]})
    facts = {"info_ratio": 4.0, "info_divisor": 2047.0, "info_sensor": "QB"}
    savemat(folder / "facts.mat", ref | facts)
    write_mat(folder / "facts73.mat", ref | {"info_divisor": np.array([[2047.0]])}, v73=True)
    black = np.concatenate([ref["gt"], np.zeros_like(ref["gt"][:1])])
    savemat(folder / "black.mat", {"sr": black, "gt": black})
    savemat(folder / "many.mat", {name: np.repeat(v[:1], 12, axis=0) for name, v in ref.items()})
    savemat(folder / "capitals.mat", {"SR": ref["sr"], "GT": ref["gt"]})
    savemat(folder / "complex.mat", ref | {"sr": ref["sr"] + 1j})
    cell = np.empty((1, 1), dtype=object)
    cell[0, 0] = ref["sr"]
    savemat(folder / "cell.mat", ref | {"sr": cell})
    savemat(folder / "struct.mat", ref | {"sr": {"data": ref["sr"]}})
    savemat(folder / "words.mat", {"sr": "some words", "gt": ref["gt"]})
    _write_unbatched(folder / "one", ref)
    _write_damaged(folder)
    _write_full(folder)


def _write_full(folder: Path) -> None:
    names = ("sr", "ms", "lms", "pan")
    pair = [full_case("", seed, 4, 32, 64) for seed in (3, 4)]
    unref = {name: _batch(pair, name) for name in names}
    savemat(folder / "unref.mat", unref)
    savemat(folder / "facts_full.mat", unref | {"info_ratio": 4.0, "info_divisor": 2047.0, "info_sensor": "QB"})
    write_mat(folder / "unref73.mat", unref, v73=True)
    _write_unbatched(folder / "one_full", unref)
    savemat(folder / "unit_full.mat", {name: v / 2047 for name, v in unref.items()})
    odd = {name: v[..., :12] if name == "ms" else v[..., :48] for name, v in unref.items()}
    savemat(folder / "odd.mat", odd)
    savemat(folder / "eight.mat", full_case("", 5, 8, 32, 32).images)
    savemat(folder / "ratio3.mat", full_case("", 7, 3, 96, 96, ratio=3).images)
    savemat(folder / "ratio8.mat", full_case("", 6, 3, 32, 64, ratio=8).images)


def _write_unbatched(folder: Path, batch: dict[str, np.ndarray]) -> None:
    """Files numbered 2 and 10: in the order of names 10 would come first."""
    folder.mkdir()
    for k, number in enumerate((2, 10)):
        images = {name: np.moveaxis(v[k], 0, -1).squeeze() for name, v in batch.items()}
        savemat(folder / f"output_mulExm_{number}.mat", images)


def _write_damaged(folder: Path) -> None:
    (folder / "text.mat").write_text("this is no matrix\n")
    for name, source in (("cut5", "ref"), ("cut73", "ref73")):
        whole = (folder / f"{source}.mat").read_bytes()
        (folder / f"{name}.mat").write_bytes(whole[: len(whole) // 2])


def _write_company(path: Path, images: dict[str, np.ndarray]) -> None:
    """A compressed v7.3 file with variables of kinds that Octave cannot load."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, image in images.items():
            reversed_axes = image.transpose()
            data = file.create_dataset(name, data=reversed_axes, chunks=True, compression="gzip", shuffle=True)
            data.attrs["MATLAB_class"] = np.bytes_("single")
        hidden = file.create_group("#refs#").create_dataset("a", data=np.zeros((1, 1)))
        cell = file.create_dataset("names", data=np.array([[hidden.ref]], dtype=h5py.ref_dtype))
        cell.attrs["MATLAB_class"] = np.bytes_("cell")
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(116) + bytes(8) + b"\x00\x02IM")


_SCRIPT = """
function show(key, res, was)
  names = fieldnames(res);
  for n = 1:numel(names)
    fprintf('value|%s|%s|%.17g|%.17g\\n', key, names{n}, res.(names{n}));
  end
  fprintf('left|%s|%d\\n', key, isequal(was, {path, pwd}));
end
function caught(key, problem, was)
  fprintf('caught|%s|%s|%d|%s\\n', key, problem.identifier, isequal(was, {path, pwd}), problem.message);
end
state = warning('query', 'all');
"""


def _script() -> str:
    lines = [_SCRIPT]
    for key, call in CALLS.items():
        lines.append(f"fprintf('call|{key}\\n'); was = {{path, pwd}}; show('{key}', {call}, was);")
    for key, (call, _) in ERRORS.items():
        lines.append(
            f"was = {{path, pwd}}; try, {call}; fprintf('no error|{key}\\n'); "
            f"catch problem, caught('{key}', problem, was); end"
        )
    lines.append("fprintf('warnings|%d\\n', isequal(state, warning('query', 'all')));")
    # A relative entry of the path, and files in the caller's folder with the names of ours.
    lines.append("rmpath(package); cd('elsewhere'); addpath('link');")
    lines.append("was = {path, pwd}; show('elsewhere', analysis_ref_batched_images('../ref.mat', 4, 0, 2047), was);")
    return "\n".join(lines)


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> str:
    if find_octave() is None:
        pytest.skip(INSTALL_OCTAVE)
    folder = tmp_path_factory.mktemp("matlab")
    _write_files(folder)
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "link").symlink_to(PACKAGE, target_is_directory=True)
    for name in ("sam", "psnr", "read_mat"):
        (elsewhere / f"{name}.m").write_text(f"function x = {name}(varargin)\nerror('the file of the caller');\nend\n")
    return run_octave(f"package = '{PACKAGE}';\n{_script()}", folder)


@pytest.fixture(scope="module")
def results(output: str) -> dict[str, dict[str, tuple[float, float]]]:
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for line in output.splitlines():
        if line.startswith("value|"):
            _, key, name, mean, std = line.split("|")
            found.setdefault(key, {})[name] = (float(mean), float(std))
    return found


def _printed(output: str, key: str) -> list[str]:
    """Lines that a call printed itself."""
    lines = output.split(f"call|{key}\n")[1].splitlines()
    return lines[: next(i for i, line in enumerate(lines) if line.startswith("value|"))]


def test_every_call_ran_and_left_path_and_folder(output: str) -> None:
    for key in (*CALLS, "elsewhere"):
        assert f"left|{key}|1" in output, key
    assert "warnings|1" in output


@pytest.mark.parametrize("key", ERRORS)
def test_bad_input_is_one_line_and_leaves_path_and_folder(output: str, key: str) -> None:
    assert f"no error|{key}\n" not in output
    line = next(x for x in output.splitlines() if x.startswith(f"caught|{key}|"))
    identifier, left, message = line.split("|", 4)[2:]
    assert identifier in {f"lemamba:{i}" for i in ERRORS[key][1].split("|")}, line
    assert left == "1"
    assert len(message) > 20
    assert re.search(r";|name another|give", message), f"does not say what to do: {message}"


def _message(output: str, key: str) -> str:
    return next(x for x in output.splitlines() if x.startswith(f"caught|{key}|"))


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("no variable is there", ("found", "SR", "GT", "sr, gt")),
        ("folder for a batch", ("analysis_ref_unbatched_images",)),
        ("file for a folder", ("analysis_ref_batched_images",)),
        ("ratio as text", ("text '4'", "without quotes")),
        ("const 1 for digital numbers", ("does not fit", "give const")),
        ("const 2047 for [0, 1]", ("give const 1",)),
        ("argument order", ("full_res", "2047", "order")),
        ("flag_cut_bounds 1", ("'cut', 21", "'const', 1")),
        ("complex", ("complex",)),
        ("cell", ("cell",)),
        ("struct", ("struct",)),
    ],
)
def test_messages_name_what_is_wrong_and_what_helps(output: str, key: str, words: tuple[str, ...]) -> None:
    assert all(word in _message(output, key) for word in words), _message(output, key)


def test_one_black_image_is_named(output: str, results: dict) -> None:
    """Its SAM is NaN, and so is the mean: nobody should have to look for it."""
    assert np.isnan(results["black"]["sam"][0])
    assert any(
        re.match("note: sam is NaN for sample 3, and so is its mean", line) for line in _printed(output, "black")
    )


def test_long_runs_tell_how_far_they_are(output: str) -> None:
    progress = [line for line in _printed(output, "many") if line.startswith("progress")]
    assert len(progress) == 5
    assert re.fullmatch(r"progress: 2 of 12 samples, about \d+ s left", progress[0])
    assert not any(line.startswith("progress") for line in _printed(output, "ref"))


def test_printout_0_prints_no_samples(output: str) -> None:
    assert not any(line.startswith("sample") for line in _printed(output, "published unbatched, quiet"))


def test_ratio_3_has_every_index(results: dict) -> None:
    means = {name: mean for name, (mean, _) in results["unref ratio 3"].items()}
    assert np.isnan(means.pop("d_lambda_ms")), "a block of 32 is no multiple of 3"
    assert all(np.isfinite(mean) for mean in means.values())


def test_missing_key_names_what_is_there(output: str) -> None:
    line = next(x for x in output.splitlines() if x.startswith("caught|missing key|"))
    assert all(name in line for name in ("sr", "gt", "lms", "ms", "pan"))


def test_an_unknown_sensor_suggests_the_nearest(output: str) -> None:
    line = next(x for x in output.splitlines() if x.startswith("caught|unknown sensor|"))
    assert 'unknown sensor "IKNOS" (did you mean "IKONOS"?)' in line


def test_fields_and_order(results: dict) -> None:
    """Those of the Python records, under their MATLAB names."""
    assert list(results["ref"]) == [INDICES[name].matlab for name in REDUCED_NAMES]
    assert list(results["unref"]) == [INDICES[name].matlab for name in FULL_NAMES]


def test_printed_lines(output: str, results: dict) -> None:
    number = r"-?\d+\.\d{6}"
    names = ("sam", "ergas", "scc", "qn", "q_ave", "psnr", "ssim")
    lines = _printed(output, "ref")
    assert len(lines) == 3
    mean = "mean of 2 samples - " + ", ".join(f"{n}: {number} \\+- {number}" for n in names)
    assert re.fullmatch(mean, lines[2]), lines[2]
    for k, line in enumerate(lines[:2], 1):
        assert re.fullmatch(f"sample {k} - " + ", ".join(f"{n}: {number}" for n in names), line), line
    lines = _printed(output, "unref")
    assert lines[2].startswith("mean of 2 samples - d_lambda: ")
    for k, line in enumerate(lines[:2], 1):
        assert re.fullmatch(f"sample {k} - d_lambda: {number}, qnr_index: {number}, d_s: {number}", line), line
    samples = [float(x) for x in re.findall(f"sample . - sam: ({number})", "\n".join(_printed(output, "ref")))]
    assert np.mean(samples) == pytest.approx(results["ref"]["sam"][0], abs=1e-6)


@pytest.mark.parametrize(
    "key",
    [
        "full_res",
        "option first",
        "v7.3",
        "v7.3 with company",
        "unbatched",
        "published unbatched",
        "published unbatched, quiet",
        "facts",
        "elsewhere",
    ],
)
def test_the_same_images_give_the_same_numbers(results: dict, key: str) -> None:
    assert results[key] == results["ref"]


def test_integers_are_computed_in_double(results: dict) -> None:
    assert results["v5 integers"] == results["v7.3 integers"]
    assert results["v5 integers"]["psnr"][0] == pytest.approx(results["ref"]["psnr"][0], rel=1e-2)


@pytest.mark.parametrize("key", ["unref v7.3", "unref unbatched", "unref published order", "unref const"])
def test_the_same_images_give_the_same_numbers_at_full_resolution(results: dict, key: str) -> None:
    assert results[key] == results["unref"]


def test_unbatched_prints_the_number_of_the_file(output: str) -> None:
    for key in ("unbatched", "unref unbatched"):
        assert [line.split(" - ")[0] for line in _printed(output, key)][:2] == ["sample 2", "sample 10"]


def test_hqnr_and_qnr_are_the_products(results: dict) -> None:
    one = results["unref eight"]
    assert one["qnr_index"][0] == pytest.approx((1 - one["d_lambda"][0]) * (1 - one["d_s"][0]), rel=1e-12)
    assert one["qnr"][0] == pytest.approx((1 - one["d_lambda_qnr"][0]) * (1 - one["d_s"][0]), rel=1e-12)


def test_std(output: str, results: dict) -> None:
    """n - 1; 0 for one sample; an Inf makes the mean Inf and the std NaN."""
    samples = [float(x) for x in re.findall(r"sample \d - .*psnr: ([\d.]+)", "\n".join(_printed(output, "ref")))]
    assert results["ref"]["psnr"] == pytest.approx((np.mean(samples), np.std(samples, ddof=1)), abs=2e-6)
    assert all(std == 0 for _, std in results["one sample"].values())
    mean, std = results["one of two equal"]["psnr"]
    assert mean == np.inf and np.isnan(std)


def test_notes_say_what_was_decided(output: str, results: dict) -> None:
    assert sum("65535" in line for line in _printed(output, "unit")) == 1
    assert not any("note" in line for line in _printed(output, "unit published"))
    assert results["unit"]["qn"] != results["unit published"]["qn"]
    assert sum("65535" in line for line in _printed(output, "unref unit")) == 1
    assert any("GF2" in line and "0.3" in line for line in _printed(output, "GF2"))
    assert any("IKONOS" in line for line in _printed(output, "QB published"))
    assert not any("note" in line for line in _printed(output, "unref"))
    assert results["QB published"] == results["alias"] == results["unref"] != results["GF2"]


def _code(line: str) -> str:
    """Cut comments and the insides of quotes; a ' after a name, a bracket or another ' is a transpose."""
    kept, quoted = [], False
    for k, character in enumerate(line):
        if quoted:
            quoted = character != "'"
        elif character == "%":
            break
        elif character == "'" and not (k and re.match(r"[\w\])}'.]", line[k - 1])):
            quoted = True
        else:
            kept.append(character)
    return "".join(kept)


@pytest.mark.parametrize("source", SOURCES, ids=[s.stem for s in SOURCES])
def test_sources_keep_to_the_common_language(source: Path) -> None:
    """MATLAB R2019b and Octave 7: no Octave-only syntax, no toolbox or later function, no missing one."""
    text, code = source.read_text(), "\n".join(_code(line) for line in source.read_text().splitlines())
    assert re.match(rf"function .*\b{source.stem}\b", text), "one function per file, named after it"
    assert text.splitlines()[1].startswith(f"%{source.stem.upper()}  "), "help text"
    octave_only = r"!|\+=|-=|\*=|\+\+|\"|#|\bend(if|for|function|while)\b|\bprintf\b|\bunwind_protect\b|\bdo\b|\*\*"
    assert not re.search(octave_only, code), re.search(octave_only, code)
    needs_toolbox = (
        "imresize|fspecial|imfilter|blockproc|im2col|padarray|fwind1|fsamp2|kaiser|upsample|normalize"
        "|pagemtimes|string|h5read|cov|strings|contains|isstring|inputParser|arguments"
    )
    assert not re.search(rf"\b({needs_toolbox})\(", code), re.search(rf"\b({needs_toolbox})\(", code)
    assert not re.search(r"\bfor .*\b(row|col|column|pixel|height|width)s?\b", code), "a loop over pixels"
    assert max(len(line) for line in text.splitlines()) <= 120


def test_every_index_has_its_file() -> None:
    """Named as its Python file; hqnr and qnr are products of others and stand in `full_resolution`."""
    ours = {s.stem for s in (PACKAGE / "Quality_Indices").glob("*.m")}
    python = {index.function.__module__.rpartition(".")[2] for index in INDICES.values()}
    assert {*python - {"full"}, "reduced_resolution", "full_resolution"} <= ours


def test_every_public_function_is_listed() -> None:
    listed = set(re.findall(r"^%   (\w+)\s+- ", (PACKAGE / "Contents.m").read_text(), re.M))
    assert listed == {p.stem for p in PUBLIC} | {"package_toolbox"}
    folder = set(re.findall(r"\w+", (PACKAGE / "Quality_Indices/Contents.m").read_text()))
    assert {p.stem for p in PUBLIC} - {p.stem for p in SCRIPTS} <= folder


def _help(source: Path) -> str:
    lines = source.read_text().splitlines()[1:]
    return "\n".join(line[1:] for line in lines[: next(i for i, line in enumerate(lines) if not line.startswith("%"))])


def _example(source: Path) -> str:
    return re.search(r"Example:\n((?:      .*\n)+)", _help(source))[1]


@pytest.mark.parametrize("source", PUBLIC, ids=[s.stem for s in PUBLIC])
def test_help_has_the_call_an_example_and_neighbours(source: Path) -> None:
    assert re.search(rf"\b{source.stem}\(", _help(source))
    assert source.stem in _example(source)
    named = re.search(r"See also ([A-Z0-9_, \n]+)\.", _help(source))[1].lower()
    neighbours = {name.strip() for name in named.split(",")}
    assert neighbours <= {p.stem for p in PUBLIC} - {source.stem}, neighbours


def test_every_example_runs_with_the_folder_of_indices_alone_on_the_path(tmp_path: Path) -> None:
    """The examples of the indices need no more than `Quality_Indices`; those of the scripts the package's folder."""
    if find_octave() is None:
        pytest.skip(INSTALL_OCTAVE)
    lines = [f"rmpath('{PACKAGE}');", f"addpath('{PACKAGE / 'Quality_Indices'}');"]
    for source in (p for p in PUBLIC if p not in SCRIPTS):
        lines.append(f"clear all;\n{_example(source)}\nfprintf('ran {source.stem}\\n');")
    lines += [f"rmpath('{PACKAGE / 'Quality_Indices'}');", f"addpath('{PACKAGE}');"]
    for source in SCRIPTS:
        lines.append(f"clear all;\n{_example(source)}\nfprintf('ran {source.stem}\\n');")
    printed = run_octave("\n".join(lines), tmp_path)
    assert {line[4:] for line in printed.splitlines() if line.startswith("ran ")} == {p.stem for p in PUBLIC}
    assert "NaN" not in printed


def test_the_tests_of_the_package_pass_in_octave(tmp_path: Path) -> None:
    """The same files run in MATLAB by `runtests`; `tests/octave` stands in for its framework."""
    if find_octave() is None:
        pytest.skip(INSTALL_OCTAVE)
    printed = run_octave(f"addpath('{PACKAGE / 'tests'}'); run_tests", tmp_path)
    failed = [line for line in printed.splitlines() if line.startswith("FAILED")]
    passed = {line.rpartition("/")[2] for line in printed.splitlines() if line.startswith("passed")}
    written = {
        name
        for p in (PACKAGE / "tests").glob("test_*.m")
        for name in re.findall(r"^function (test_\w+)\(", p.read_text(), re.M)
    }
    assert not failed
    assert passed == written


@pytest.mark.parametrize("tool", ["mh_style", "mh_lint"])
def test_style_and_lint(tool: str) -> None:
    """miss_hit, a linter for MATLAB that needs no MATLAB; its rules are in miss_hit.cfg."""
    program = Path(sys.executable).parent / tool
    if not program.exists():
        pytest.skip("miss_hit is not installed: pip install miss-hit")
    done = subprocess.run([program, PACKAGE], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_worked_example_prints_what_the_readme_shows() -> None:
    if find_octave() is None:
        pytest.skip(INSTALL_OCTAVE)
    readme = (PACKAGE / "README.md").read_text()
    example = re.search(r"tests run this -->\n```matlab\n(.*?)```", readme, re.DOTALL)[1]
    shown = re.search(r"tests compare this -->\n```\n(.*?)```", readme, re.DOTALL)[1]
    assert run_octave(example, PACKAGE.parent).removesuffix("finished\n") == shown
