"""Time and peak memory of fusing a whole GeoTIFF scene, next to GDAL: `python -m benchmarks.bench_scene`.

    python -m benchmarks.bench_scene                    PAN of 8000 x 8000, MS of 2000 x 2000 x 4, uint16, one turn
    python -m benchmarks.bench_scene --side 1024 --turns 3

`gdal_pansharpen` (weighted Brovey, cubic, two threads) and `inference.py` with classical methods fuse one pair of
files drawn here, stored plainly and with DEFLATE. Ratios compare results with the same creation options: tiles of 256
x 256, and with DEFLATE predictor 2, level 1, two threads; GDAL with its own level 6 is shown as well. All commands
take turns, each in a process of its own, so start-up, reading and writing count; the ratio is the median over the
turns. Peak memory is the largest resident set that the system saw. The results go to
benchmarks/results/scene_cpu.json and, as the table of docs/performance.md, to scene_cpu.md.

GDAL: `apt-get install gdal-bin`.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from lemamba.utils.atomic import write_json, write_text
from lemamba.utils.command_line import Parser
from lemamba.utils.errors import UserError
from lemamba.utils.startup import run_cli

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks/results/scene_cpu.json"
METHODS = ("Brovey", "GSA", "MTF-GLP-FS")
# how our result is stored -> the command of GDAL that stores the same
BASES = {"none": "gdal, plain", "deflate": "gdal, DEFLATE, level 1"}
GOALS = {"Brovey": {"none": 3, "deflate": 1.2}}  # times GDAL; twice that for methods that look at the scene twice
RATIO, BANDS, THREADS = 4, 4, 2
GDAL = ("gdal_pansharpen", "gdal_pansharpen.py")
Command = Sequence[str]


# The pair


def make_pair(folder: Path, side: int) -> tuple[Path, Path]:
    """Write ms.tif and pan.tif, corner-aligned, uint16 below 2048, tiled and not compressed; return their paths."""
    if side < 256 or side % 32:
        raise UserError(f"expected --side of at least 256, a multiple of 32, given {side}; take 4000 or 1024")
    random = np.random.default_rng(0)
    small = side // RATIO
    field = ndimage.zoom(random.standard_normal((small // 8 + 1,) * 2), 8, order=1)[:small, :small]
    levels, gains = np.array([300, 380, 420, 600]), np.array([80, 110, 130, 180])
    ms = levels[:, None, None] + gains[:, None, None] * field + 15 * random.standard_normal((BANDS, small, small))
    pan = np.repeat(np.repeat(ms.mean(axis=0).astype(np.float32), RATIO, axis=0), RATIO, axis=1)
    pan += 30 * random.standard_normal(pan.shape, dtype=np.float32)
    paths = folder / "ms.tif", folder / "pan.tif"
    for path, image, pixel in zip(paths, (ms, pan[None]), (2.0, 2.0 / RATIO), strict=True):
        _write(path, np.clip(np.round(image), 1, 2047).astype(np.uint16), pixel)
    return paths


def _write(path: Path, image: np.ndarray, pixel: float) -> None:
    try:
        import rasterio
    except ImportError:
        raise UserError("expected rasterio for GeoTIFF files, it is missing; pip install rasterio") from None
    profile = {"driver": "GTiff", "dtype": image.dtype, "crs": "EPSG:32654", "tiled": True, "photometric": "minisblack"}
    profile |= {"transform": rasterio.transform.from_origin(300000, 4107000, pixel, pixel)}
    bands, height, width = image.shape
    with rasterio.open(path, "w", count=bands, height=height, width=width, **profile) as file:
        file.write(image)


# The commands


def gdal_program() -> str:
    """Return GDAL's program; newer releases drop the suffix."""
    found = next((p for p in map(shutil.which, GDAL) if p), None)
    if found is None:
        raise UserError("expected gdal_pansharpen on the path, found none; apt-get install gdal-bin")
    return found


def gdal_commands(ms: Path, pan: Path) -> dict[str, list[str]]:
    """GDAL's commands for a plain and for compressed results, without the name of the result."""
    start = [gdal_program(), "-q", "-threads", str(THREADS), "-r", "cubic", "-co", "TILED=YES"]
    deflate = ["-co", "COMPRESS=DEFLATE", "-co", "PREDICTOR=2", "-co", f"NUM_THREADS={THREADS}"]
    return {
        BASES["none"]: [*start, str(pan), str(ms)],
        BASES["deflate"]: [*start, *deflate, "-co", "ZLEVEL=1", str(pan), str(ms)],
        "gdal, DEFLATE, level 6": [*start, *deflate, str(pan), str(ms)],
    }


def our_command(ms: Path, pan: Path, *method: str) -> list[str]:
    """Return the command of `inference.py` with its method options, without the name of the result."""
    return [sys.executable, str(ROOT / "inference.py"), *method, "--ms", str(ms), "--pan", str(pan), "--out"]


def our_commands(ms: Path, pan: Path) -> dict[str, list[str]]:
    """Return our commands by method and compression."""
    return {
        our_name(method, compress): our_command(
            ms, pan, "--arch", method, "--sensor", "IKONOS", "--device", "cpu", "--compress", compress
        )
        for method in METHODS
        for compress in BASES
    }


def our_name(method: str, compress: str) -> str:
    """Return the name of a row."""
    return f"{method}, {'plain' if compress == 'none' else 'DEFLATE, level 1'}"


def base_of(name: str) -> str:
    """Return the command of GDAL that a row is compared with."""
    return BASES["deflate" if "DEFLATE" in name else "none"]


# Measuring

# Linux counts the memory of the process that starts a command as the command's own; so a small one starts it.
LAUNCHER = """
import json, os, sys, time
started = time.perf_counter()
process = os.posix_spawn(sys.argv[2], sys.argv[2:], os.environ)
_, status, usage = os.wait4(process, 0)
seconds = time.perf_counter() - started
found = {"status": status, "seconds": seconds, "cores": usage.ru_utime + usage.ru_stime, "peak": usage.ru_maxrss}
with open(sys.argv[1], "w") as report:
    json.dump(found, report)
"""


@dataclass(frozen=True)
class Run:
    """One run of a command: seconds elapsed and of all cores, the peak resident set, the size of the result (MiB)."""

    seconds: float
    core_seconds: float
    peak_mib: float
    result_mib: float


def run_once(command: Command, out: Path) -> Run:
    """Run a command, given by the path of its program, in a process of its own; its result is removed.

    Raises:
        UserError: the command failed; the last line of what it said is given.
    """
    environment = os.environ | {"OMP_NUM_THREADS": str(THREADS)}
    with tempfile.TemporaryFile() as said, tempfile.NamedTemporaryFile("r", suffix=".json") as report:
        launch = [sys.executable, "-I", "-S", "-c", LAUNCHER, report.name, *command, str(out)]
        subprocess.run(launch, cwd=ROOT, env=environment, stdout=said, stderr=said, check=True)
        found = json.load(report)
        said.seek(0)
        lines = said.read().decode(errors="replace").strip().splitlines() or ["no output"]
    if found["status"] or not out.is_file():
        raise UserError(
            f"expected {Path(command[0]).name} to fuse the pair, it ended with: {lines[-1]}; repeat it alone"
        )
    size = out.stat().st_size
    out.unlink()
    per_mib = 2**20 if sys.platform == "darwin" else 2**10  # bytes there, KiB elsewhere
    return Run(found["seconds"], found["cores"], found["peak"] / per_mib, size / 2**20)


def take_turns(commands: Mapping[str, Command], out: Path, turns: int) -> dict[str, list[Run]]:
    """Run all commands `turns` times, one after the other."""
    runs: dict[str, list[Run]] = {name: [] for name in commands}
    for turn in range(turns):
        for name, command in commands.items():
            runs[name].append(run_once(command, out))
            print(f"turn {turn + 1}, {name}: {runs[name][-1].seconds:.1f} s", file=sys.stderr)
    return runs


def measure(side: int, turns: int) -> dict[str, list[Run]]:
    """Draw a pair and measure all commands on it; the files of the pair are in the system's cache by then."""
    with tempfile.TemporaryDirectory() as place:
        pair = make_pair(Path(place), side)
        return take_turns(gdal_commands(*pair) | our_commands(*pair), Path(place) / "fused.tif", turns)


def row(name: str, runs: Sequence[Run], base: Sequence[Run]) -> dict[str, str | float]:
    """Return medians of a command, and the median over the turns of its time by that of the base's turn."""

    def median(values: Sequence[float], digits: int = 2) -> float:
        return round(statistics.median(values), digits)

    return {
        "command": name,
        "seconds": median([r.seconds for r in runs]),
        "core_seconds": median([r.core_seconds for r in runs]),
        "peak_mib": median([r.peak_mib for r in runs], 0),
        "result_mib": median([r.result_mib for r in runs], 1),
        "time_ratio": median([r.seconds / b.seconds for r, b in zip(runs, base, strict=True)]),
        "core_time_ratio": median([r.core_seconds / b.core_seconds for r, b in zip(runs, base, strict=True)]),
        "memory_ratio": median([r.peak_mib / b.peak_mib for r, b in zip(runs, base, strict=True)]),
    }


def markdown(rows: Sequence[Mapping[str, str | float]]) -> str:
    """Return the table; ratios are to GDAL with the same creation options, goals those of wall time."""
    lines = ["| command | time | times GDAL | goal | core seconds | times GDAL | peak memory | result |"]
    lines.append("|---|---:|---:|---:|---:|---:|---:|---:|")
    for r in rows:
        method, _, stored = str(r["command"]).partition(", ")
        ours = method in METHODS
        goal = GOALS["Brovey"]["none" if stored == "plain" else "deflate"] * (1 if method == "Brovey" else 2)
        cells = [
            f"{'`inference.py --arch ' if ours else '`gdal_pansharpen'}{method if ours else ''}`, {stored}",
            f"{r['seconds']:.1f} s",
            f"{r['time_ratio']:.2f}",
            f"{goal:g}" if ours else "",
            f"{r['core_seconds']:.1f}",
            f"{r['core_time_ratio']:.2f}",
            f"{r['peak_mib']:.0f} MiB",
            f"{r['result_mib']:.0f} MiB",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def gdal_version() -> str:
    """Return what GDAL says about itself."""
    program = shutil.which("gdalinfo")
    if program is None:
        return "unknown"
    return subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.split(",")[0]


def main() -> None:
    """Measure, print, save."""
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("--side", type=int, default=8000, help="side of PAN in pixels (default %(default)s)")
    parser.add_argument("--turns", type=int, default=1, help="turns, after one on a small pair (default %(default)s)")
    arguments = parser.parse_args()
    if arguments.turns < 1:
        raise UserError(f"expected --turns of at least 1, given {arguments.turns}; take 1 or 3")
    gdal_program()  # before a scene is drawn in vain
    measure(256, 1)  # programs and libraries come into the system's cache
    runs = measure(arguments.side, arguments.turns)
    rows = [row(name, found, runs[base_of(name)]) for name, found in runs.items()]
    table = markdown(rows)
    print(table, end="")
    results = {
        "date": datetime.date.today().isoformat(),
        "device": f"CPU, {THREADS} threads, {platform.machine()}",
        "load": round(os.getloadavg()[0], 1),
        "gdal": gdal_version(),
        "scene": f"PAN {arguments.side} x {arguments.side}, {BANDS} bands, ratio {RATIO}, uint16",
        "turns": arguments.turns,
        "ratio_to": "GDAL with the same creation options",
        "commands": rows,
    }
    write_json(RESULTS, results)
    write_text(RESULTS.with_suffix(".md"), table)
    print(f"saved as {RESULTS.relative_to(ROOT)} and {RESULTS.with_suffix('.md').name}")


if __name__ == "__main__":
    run_cli(main)
