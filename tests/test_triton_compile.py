"""The Triton kernels compiled to machine code of real GPUs, without a GPU: they compile, fit the registers, keep tiles.

Triton compiles ahead of time for a named target and its wheel carries the assembler. What can be seen there decides the
speed: registers spilled to memory, and exchanges between lanes that only a wrong layout of a tile would need.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace

import pytest

triton = pytest.importorskip("triton", reason="triton is not installed (requirements-dev.txt)")

from benchmarks.kernel_matrix import compiled, resources  # noqa: E402
from lemamba.model.ops.triton.plan import Config, Shape, candidates, heuristic, kept_steps, steps, tile, vector  # noqa: E402

if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("this process interprets kernels", allow_module_level=True)
if not hasattr(triton.language, "gather"):
    pytest.skip(f"triton {triton.__version__} lacks what the kernels use", allow_module_level=True)


def options(shape: Shape, config: Config) -> dict:
    """Return the flags that `launch.Plan` would give the kernels."""
    sizes = tile(shape, config)
    ones = {"chunks": 1, "W": 1} if shape.cross else {"chunks": 1, "H": 1, "W": 1}  # Triton makes 1 a constant
    return {
        **(ones if shape is not MAP else {}),
        "K": shape.K, "CH": shape.D, "N": shape.N, "R": shape.R,
        "CROSS": shape.cross, "SOFTPLUS": True, "WIDE": False, **sizes, "BT": steps(shape.L),
        "KEEP": kept_steps(shape.L), "SHARE": shape.share,
        "MASK_N": sizes["RN"] * sizes["PN"] != shape.N, "MASK_D": shape.D % (sizes["RD"] * sizes["PD"]) != 0,
        "VEC_N": vector(shape.N), "VEC_D": vector(shape.D), "VEC_S": 1 if shape.R else vector(shape.D),
    }  # fmt: skip


def loop_instructions(code: str) -> int:
    """Return the instructions of the longest loop that holds no other."""
    count, labels, loops = 0, {}, []
    for line in code.splitlines():
        if label := re.match(r"(\.L_x_\d+):", line):
            labels[label[1]] = count
        elif re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+\S", line):
            target = re.search(r"BRA.*`\((\.L_x_\d+)\)", line)
            if target and target[1] in labels:
                loops.append((labels[target[1]], count))
            count += 1
    inner = [(a, b) for a, b in loops if not any(a <= c and d <= b and (a, b) != (c, d) for c, d in loops)]
    return max(b - a + 1 for a, b in inner)


def kernel_of(name: str):
    from lemamba.model.ops.triton import backward as triton_backward
    from lemamba.model.ops.triton import forward as triton_kernels

    return getattr(triton_backward if name == "backward_kernel" else triton_kernels, name)


MAP = Shape(32, 4, 64, 32, 2, 4096, True, False, False, False)
WINDOWS = Shape(2048, 4, 64, 16, 2, 64, True, True, True, False)
PLAIN = Shape(32, 4, 64, 32, 0, 4096, False, False, False, False)
ODD = Shape(1, 3, 5, 33, 3, 100, True, True, False, False)
FORWARD = {"INITIAL": False, "SAVE": True, "OUT": True, "SUM": False}
ENDS = {"INITIAL": False, "SAVE": False, "OUT": False, "SUM": False}
MERGED = {"INITIAL": False, "SAVE": True, "OUT": True, "SUM": True}
BACKWARD = {"ARRIVING": True, "SUM": False}
MOST = {"forward_kernel": 11, "backward_kernel": 30}  # instructions a state and step, MAP with outputs (9.0 and 27.4)
CASES = [  # kernel, shape, flags, architecture, bytes of stack allowed
    ("forward_kernel", MAP, FORWARD, 90, 0),
    ("forward_kernel", MAP, ENDS, 80, 16),
    ("forward_kernel", WINDOWS, MERGED, 90, 0),
    ("forward_kernel", PLAIN, {**FORWARD, "INITIAL": True}, 90, 0),
    ("forward_kernel", ODD, FORWARD, 80, 0),
    ("reverse_kernel", MAP, {}, 90, 0),
    ("reverse_kernel", PLAIN, {}, 80, 0),
    ("backward_kernel", MAP, BACKWARD, 90, 0),
    ("backward_kernel", WINDOWS, {**BACKWARD, "SUM": True}, 90, 64),
    ("backward_kernel", PLAIN, BACKWARD, 80, 0),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "shape", "flags", "arch", "stack"), CASES)
def test_compiles_without_spills_or_exchanges(name, shape, flags, arch, stack, record_property):
    config = heuristic(replace(shape, backward=name == "backward_kernel"), 132)
    constants = {**options(shape, config), **flags}
    result = compiled(kernel_of(name), constants, arch, "bf16" if shape.half else "fp32")
    registers, spilled, _stores, shared, code = resources(result)
    record_property("registers", registers)
    record_property("stack", spilled)
    print(f"{name} sm_{arch} {shape}: {registers} registers, {spilled} bytes of stack, {shared} of shared memory")
    assert "MUFU.EX2" in code
    assert spilled <= stack
    each = loop_instructions(code) / (steps(shape.L) * config.RN * config.RD)
    print(f"{each:.2f} instructions a state and step")
    if shape is MAP and flags in (FORWARD, BACKWARD):
        assert each <= MOST[name]
    if shape is not ODD and shape.D % 4 == 0 and shape.N % 4 == 0:
        # sums over warps of gB, gC and the gate: a value per lane and state each; more: a tile is converted there
        assert shared <= (2 + shape.share) * 4 * config.RN * 32 * config.PW * (config.PW > 1)
        assert "LDG.E.128" in code or shape.half, "no vector loads"


def test_carry_compiles():
    constants = {"K": 4, "CH": 64, "N": 32, "FIRST": True, "BACK": True, "BLOCK": 128}
    kernel = kernel_of("carry_kernel")
    names = kernel.arg_names
    assert compiled(kernel, {k: v for k, v in constants.items() if k in names}, 90, "fp32").asm["cubin"]


GATES = {"gelu_forward": {"M": 128, "BLOCK": 1024}, "gelu_backward": {"M": 32, "BLOCK": 1024}}
GATES |= dict.fromkeys(("norm_forward", "norm_backward"), {"D": 64, "ROWS": 16, "WIDTH": 64})


@pytest.mark.parametrize("name", GATES)
@pytest.mark.parametrize(("arch", "rows"), [(80, "bf16"), (90, "fp32")])
def test_gates_compile_without_spills(name, arch, rows):
    from lemamba.model.ops.triton import gate_kernels

    _registers, stack, spills, _shared, code = resources(
        compiled(getattr(gate_kernels, name), GATES[name] | {"PW": 4}, arch, rows)
    )
    assert (stack, spills) == (0, 0)
    assert "LDG" in code


BLOCK = {"D": 64, "ROWS": 8, "WIDTH": 64, "WINDOW": 8, "DROP": True, "PARTS": 4, "PW": 4}
BLOCK |= dict.fromkeys(("GATHER", "MORE", "RESIDUAL", "FACTOR", "BRANCH"), True)
PREPARE = {"K": 4, "D": 64, "N": 32, "R": 2, "BLOCK": 1024, "PW": 4}


@pytest.mark.parametrize("name", ["prepare", "prepare_backward", "norm_gate", "finish_backward", "norm_rows_backward"])
def test_block_kernels_compile_without_spills(name):
    from lemamba.model.ops.triton import block_kernels

    constants = PREPARE if name.startswith("prepare") else BLOCK
    _registers, stack, spills, _shared, _code = resources(compiled(getattr(block_kernels, name), constants, 90, "fp32"))
    assert (stack, spills) == (0, 0)


@pytest.mark.fuzz
@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize("rows", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("shape", [MAP, WINDOWS, PLAIN, ODD], ids=["map", "windows", "plain", "odd"])
def test_every_candidate_compiles(shape, rows, arch):
    for backward in (False, True):
        for config in {
            (c.RN, c.RD, c.merge, c.PW): c for c in candidates(replace(shape, backward=backward), 132)
        }.values():
            flags = {**(BACKWARD if backward else FORWARD), "SUM": config.merge}
            kernel = kernel_of("backward_kernel" if backward else "forward_kernel")
            result = compiled(kernel, {**options(shape, config), **flags}, arch, rows)
            registers, spilled, _stores, shared, _ = resources(result)
            way = "backward" if backward else "forward"
            print(f"{way} sm_{arch} {rows} {config}: {registers} registers, {spilled} bytes of stack, {shared} shared")
