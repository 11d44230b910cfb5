"""The Triton kernels compiled for several GPUs, without one: `make kernels` or `python -m benchmarks.kernel_matrix`.

For every shape of LE-Mamba (maps and windows, with and without a shared state), float32 and bf16, forward and backward:
registers, bytes of stack, bytes spilled (from the machine code) and of shared memory, for sm_80, sm_90 and, where this
Triton's assembler knows it, sm_100. A kernel that does not compile, a forward that spills, more than 32 bytes of stack
or shared memory in a program of one warp is a failure (exit status 1). Another Triton: run it with that installed.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from lemamba.model.ops.triton.plan import Config, Shape, heuristic, kept_steps, steps, tile, vector
from lemamba.utils.startup import run_cli

SHAPES = {
    "map": Shape(32, 4, 64, 32, 2, 4096, True, False, False, False),
    "map, shared": Shape(32, 4, 64, 32, 2, 4096, True, True, False, False),
    "windows": Shape(2048, 4, 64, 16, 2, 64, True, False, False, False),
    "windows, shared": Shape(2048, 4, 64, 16, 2, 64, True, True, False, False),
    "middle": Shape(32, 4, 32, 32, 2, 64, True, True, False, False),
}
MOST_STACK = 32
_INTEGERS = (
    *("L", "H", "W", "length", "chunks", "to_t", "count", "rows", "gated", "per_sample"),
    *("a_row", "b_row", "x_row", "y_row", "z_row", "gx_row", "gz_row", "sums_row"),
)
_ROWS = (
    "x",
    "dt",
    "Bt",
    "Ct",
    "gate",
    "gy",
    "gdt",
    "gBt",
    "gCt",
    "ggate",
    "a",
    "b",
    "y",
    "z",
    "out",
    "both",
    "gout",
    "gz",
)


def flags(shape: Shape, config: Config, backward: bool) -> dict[str, Any]:
    """Return the constants that `launch.Plan` gives the kernels."""
    sizes = tile(shape, config)
    constants: dict[str, Any] = {
        "K": shape.K, "CH": shape.D, "N": shape.N, "R": shape.R, "CROSS": shape.cross,
        "SOFTPLUS": True, "WIDE": False, **sizes, "BT": steps(shape.L), "KEEP": kept_steps(shape.L),
        "SHARE": shape.share, "MASK_N": sizes["RN"] * sizes["PN"] != shape.N,
        "MASK_D": shape.D % (sizes["RD"] * sizes["PD"]) != 0, "VEC_N": vector(shape.N), "VEC_D": vector(shape.D),
        "VEC_S": 1 if shape.R else vector(shape.D), "SUM": config.merge,
    }  # fmt: skip
    return constants | ({"ARRIVING": True} if backward else {"INITIAL": False, "SAVE": True, "OUT": True})


def compiled(kernel: Any, constants: dict[str, Any], arch: int, rows: str) -> Any:
    """Compile a kernel for an NVIDIA architecture and a type of the rows; pointers aligned, strides of any value."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from lemamba.model.ops.triton.launch import OPTIONS

    names = kernel.arg_names
    constants = {k: v for k, v in constants.items() if k in names}
    signature: dict[str, str] = {}
    attributes: dict[tuple[int], Any] = {}
    for i, name in enumerate(names):
        if name in constants:
            signature[name] = "constexpr"
        elif name in _INTEGERS or re.fullmatch(r"([a-zA-Z]|to_[sn])_[obkl]", name):
            signature[name] = "i32"
        elif name in ("eps", "scale"):
            signature[name] = "fp32"
        else:
            half = rows != "fp32" and name in ("saved", "scratch")
            signature[name] = f"*{rows}" if name in _ROWS else "*bf16" if half else "*fp32"
            attributes[(i,)] = [["tt.divisibility", 16]]
    places = {(names.index(k),): v for k, v in constants.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=places, attrs=attributes)
    options = {"num_warps": constants.get("PW", 1), **OPTIONS}
    return triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)


def resources(result: Any) -> tuple[int, int, int, int, str]:
    """Return registers, bytes of stack, spills (stores to local memory), bytes of shared memory, and machine code."""
    import triton

    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(result.asm["cubin"])
        usage = subprocess.run([tools / "cuobjdump", "-res-usage", cubin], capture_output=True, text=True, check=True)
        code = subprocess.run([tools / "nvdisasm", "-c", cubin], capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage.stdout + usage.stderr)
    if found is None:
        raise RuntimeError(f"expected REG and STACK from cuobjdump, given {usage.stdout[:200]}")
    return int(found[1]), int(found[2]), len(re.findall(r"\bSTL\b", code)), int(result.metadata.shared), code


def row(name: str, shape: Shape, rows: str, backward: bool, arch: int) -> tuple[str, bool]:
    """Compile one kernel; return its row of the table and whether it is as it should be."""
    from lemamba.model.ops.triton import backward as backward_module
    from lemamba.model.ops.triton import forward as forward_module

    kernel = backward_module.backward_kernel if backward else forward_module.forward_kernel
    config = heuristic(replace(shape, backward=backward, half=rows != "fp32"), 132)
    way = "backward" if backward else "forward"
    try:
        result = compiled(kernel, flags(shape, config, backward), arch, rows)
    except Exception as error:  # noqa: BLE001 - the compiler raises anything
        return f"| {way} | {name} | {rows} | sm_{arch} | {type(error).__name__} | | | | |", False
    registers, stack, spills, shared, _code = resources(result)
    good = stack <= MOST_STACK and (backward or spills == 0) and (config.PW > 1 or shared == 0)
    return (
        f"| {way} | {name} | {rows} | sm_{arch} | {config.PW} | {registers} | {stack} | {spills} | {shared} |",
        good,
    )


def architectures() -> list[int]:
    """Return the architectures that this Triton's assembler knows of 80, 90 and 100."""
    import triton

    assembler = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"
    blackwell = assembler.with_name("ptxas-blackwell")
    text = "".join(
        subprocess.run([path, "--help"], capture_output=True, text=True, check=True).stdout
        for path in (assembler, blackwell)
        if path.exists()
    )
    return [arch for arch in (80, 90, 100) if f"sm_{arch}" in text]


def main() -> None:
    """Compile the matrix and print it row by row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", type=int, nargs="+", help="default: those of 80, 90 and 100 that the assembler knows")
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--rows", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16", "fp16"])
    options = parser.parse_args()
    import triton

    print(f"triton {triton.__version__}\n")
    print("| kernel | shape | rows | GPU | warps | registers | stack | spills | shared |\n" + "|---" * 9 + "|")
    bad = 0
    for name in options.shapes:
        for rows in options.rows:
            for backward in (False, True):
                for arch in options.arch or architectures():
                    text, good = row(name, SHAPES[name], rows, backward, arch)
                    bad += not good
                    print(text + ("" if good else " <- not as it should be"), flush=True)
    sys.exit(min(bad, 1))


if __name__ == "__main__":
    run_cli(main)
