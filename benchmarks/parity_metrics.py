"""Do the Python and the Octave metrics give one number? Prints the worst relative difference of every index.

    python -m benchmarks.parity_metrics

Both sides read the same `.mat` files: the golden scenes (where the shared material is found) and seeded cubes that
cover bands, ratios, peaks and the degenerate inputs. The tests use the functions of this file, so what is printed is
what is tested.

A difference is |a - b| / max(|a|, |b|, 0.001): below 0.001 it is absolute, as 1 - Q of equal images is only rounding.
One band has no spectral angle: its SAM is acos of a rounding error and is compared to 1e-6 degrees (scaled to 1e-9).
Two NaN are equal, and so are two Inf. Legend: B batch, C bands, H W size of PAN, h w size of MS.
"""

from __future__ import annotations

import math
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from scipy.io import savemat

from benchmarks.parity_cases import ROOT, Case, golden_cases, seeded_cases, shared_golden
from lemamba.metrics import INDICES, full_resolution, reduced_resolution
from lemamba.utils.errors import UserError
from lemamba.utils.formats.mat import read_mat
from lemamba.utils.startup import run_cli

PACKAGE = ROOT / "Pansharpening_Hyper_SR_Matlab_Test_Package"
INSTALL_OCTAVE = "GNU Octave is not installed; on Debian and Ubuntu: apt-get install -y --no-install-recommends octave"
_FLOOR = 1e-3
_FLOOR_OF_NO_ANGLE = 1e3  # degrees; 1e-9 of it is the 1e-6 that one rounding of a cosine near 1 makes of the angle


def find_octave() -> str | None:
    """Return the Octave program without its window, or None."""
    return shutil.which("octave-cli") or shutil.which("octave")


def run_octave(script: str, folder: Path, timeout: float = 500) -> str:
    """Run Octave code in `folder` with the package on the path; return what it printed.

    Raises:
        UserError: Octave is not installed.
        RuntimeError: the code stopped with an error; the message is Octave's.
    """
    program = find_octave()
    if program is None:
        raise UserError(INSTALL_OCTAVE)
    package = str(PACKAGE).replace("'", "''")
    code = f"addpath('{package}');\n{script}\nfprintf('finished\\n');\n"
    # Read as one script, so that it may define functions; `1;` says that it is not a function file.
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "driver.m"
        file.write_text(f"1;\n{code}")
        command = [program, "--quiet", "--norc", "--no-history", str(file)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=timeout)
    if not done.stdout.rstrip().endswith("finished"):
        raise RuntimeError(f"Octave stopped: {done.stderr.strip()}")
    return done.stdout


_DUMP = """
function dump(k, res)
  names = fieldnames(res);
  for n = 1:numel(names)
    fprintf('value %d %s %.17g\\n', k, names{n}, res.(names{n})(1));
  end
end
"""


def octave_values(cases: Sequence[Case], folder: Path) -> list[dict[str, float]]:
    """Score all cases in one run of Octave, through the scripts a user calls; files go to `folder`."""
    lines = [_DUMP]
    for k, case in enumerate(cases):
        lines.append(f"dump({k}, {case.octave_call(write_case(case, folder, k))});")
    found: list[dict[str, float]] = [{} for _ in cases]
    for line in run_octave("\n".join(lines), folder).splitlines():
        if line.startswith("value "):
            _, k, name, number = line.split()
            found[int(k)][name] = float(number)
    return [{n: v[INDICES[n].matlab] for n in c.indices} for c, v in zip(cases, found, strict=True)]


def write_case(case: Case, folder: Path, k: int) -> Path:
    """Write the case's images as double into a v5 `.mat`, the file both sides read."""
    file = folder / f"case_{k}.mat"
    savemat(file, case.images)
    return file


def python_values(cases: Sequence[Case], folder: Path) -> list[dict[str, float]]:
    """Score all cases in Python from the files that `octave_values` wrote."""
    scores = []
    for k, case in enumerate(cases):
        images = {n: torch.from_numpy(np.ascontiguousarray(v)) for n, v in read_mat(folder / f"case_{k}.mat").items()}
        options = {"ratio": case.ratio, "const": case.const, "published": case.published}
        if case.sensor is None:
            values = reduced_resolution(images["sr"], images["gt"], **options)
        else:
            values = full_resolution(**images, sensor=case.sensor, **options)
        scores.append({name: float(values[name]) for name in case.indices})
    return scores


def difference(a: float, b: float, floor: float = _FLOOR) -> float:
    """Relative difference as the module's text defines it."""
    if a == b or (math.isnan(a) and math.isnan(b)):
        return 0.0
    gap = abs(a - b) / max(abs(a), abs(b), floor)
    return math.inf if math.isnan(gap) else gap


def case_difference(case: Case, index: str, a: float, b: float) -> float:
    """`difference` of two values of an index of a case."""
    no_angle = index == "sam" and case.images["sr"].shape[1] == 1
    return difference(a, b, _FLOOR_OF_NO_ANGLE if no_angle else _FLOOR)


def worst_differences(
    cases: Sequence[Case], python: Sequence[dict[str, float]], octave: Sequence[dict[str, float]]
) -> dict[str, tuple[float, float | None, float | None, str]]:
    """Return per index: worst Octave-Python, golden-Python, golden-Octave (None without golden), and the worst case."""
    table = {}
    for index in INDICES:
        rows = [(c, p[index], o[index]) for c, p, o in zip(cases, python, octave, strict=True) if index in p]
        gaps = [(case_difference(c, index, o, p), c.name) for c, p, o in rows]
        golden = [(c.golden[index], p, o) for c, p, o in rows if index in c.golden]
        worst, where = max(gaps)
        to_python = max((difference(g, p) for g, p, _ in golden), default=None)
        to_octave = max((difference(g, o) for g, _, o in golden), default=None)
        table[index] = (worst, to_python, to_octave, where)
    return table


def main() -> int:
    """Print the parity table."""
    folder = shared_golden()
    cases = seeded_cases() + (golden_cases(folder) if folder else [])
    with tempfile.TemporaryDirectory() as place:
        octave = octave_values(cases, Path(place))
        python = python_values(cases, Path(place))
    golden = sum(bool(c.golden) for c in cases)
    print(f"{len(cases)} images, {golden} of them golden; worst relative difference")
    print(f"{'index':13}{'Octave-Python':>15}{'golden-Python':>15}{'golden-Octave':>15}  worst case Octave-Python")
    for index, (worst, to_python, to_octave, where) in worst_differences(cases, python, octave).items():
        shown = [f"{x:15.1e}" if x is not None else f"{'-':>15}" for x in (worst, to_python, to_octave)]
        print(f"{index:13}{''.join(shown)}  {where}")
    return 0


if __name__ == "__main__":
    run_cli(main)
