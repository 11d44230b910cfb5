"""How the Triton kernels divide a shape: tile, chunks of the sequence, one or all directions per program.

`heuristic` needs no GPU; `candidates` is what `tune.py` measures. The number of steps between kept states depends on
neither, so what forward keeps has one shape, known before anything runs. PW: warps of a program.

Legend: B batch, K groups, D channels of a group, N states, R rank of dt (0: none), L steps. BD, BN, RN, RD, PD, PN: see
`parts.py`.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from itertools import product

LANES = 32
STEPS = 4  # taken together; backward holds the states and decays of all in registers, 8 steps would spill
MOST_WARPS = 8  # of a program of backward: at 255 registers a lane they fill a multiprocessor
VECTOR = 4  # neighbouring elements that a lane may own
WARPS_PER_PROCESSOR = 8  # below this a GPU's schedulers wait for memory


@dataclass(frozen=True)
class Shape:
    """What a configuration may depend on."""

    B: int
    K: int
    D: int
    N: int
    R: int
    L: int
    cross: bool
    share: bool
    half: bool
    backward: bool


@dataclass(frozen=True)
class Config:
    """How a shape is cut.

    RN, RD: states and channels per lane; chunks of the sequence; merge: one program takes all directions; PW: warps of
    a program, each with channels of its own.
    """

    RN: int
    RD: int
    chunks: int
    merge: bool
    PW: int = 1


def interpreted() -> bool:
    """Return whether Triton's interpreter runs the kernels on the CPU."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "yes", "on")


def power_of_two(n: int) -> int:
    """Return the smallest power of two that is at least n."""
    return 1 << max(0, n - 1).bit_length()


def steps(L: int) -> int:
    """Return the number of steps that are taken together."""
    return min(STEPS, power_of_two(L))


def kept_steps(L: int) -> int:
    """Return the number of steps between the states that forward keeps, a multiple of `steps`.

    Backward computes the states between them once more, into memory for as many tiles. About sqrt(tiles) makes both
    small: 16 steps for windows of 64, 128 for maps of 4096.
    """
    return steps(L) * power_of_two(math.isqrt(max(0, -(-L // steps(L)) - 1)) + 1)


def vector(size: int) -> int:
    """Return how many neighbours among `size` a lane may own; rows must begin at multiples of it."""
    return VECTOR if size % VECTOR == 0 else 1


def tile(shape: Shape, config: Config) -> dict[str, int]:
    """Return RN, RD, PD, PN, PW."""
    PN = power_of_two(shape.N) // config.RN
    return {"RN": config.RN, "RD": config.RD, "PD": LANES // PN, "PN": PN, "PW": config.PW}


def channel_blocks(shape: Shape, config: Config) -> int:
    """Return how many programs share the channels of a group."""
    sizes = tile(shape, config)
    return -(-shape.D // (sizes["RD"] * sizes["PD"] * sizes["PW"]))


def chunk_length(shape: Shape, config: Config) -> int:
    """Return the number of steps of a chunk, a multiple of the steps between kept states."""
    every = kept_steps(shape.L)
    return -(-shape.L // (config.chunks * every)) * every


def _register_choices(shape: Shape) -> list[tuple[int, int]]:
    """Return the pairs (RN, RD) that fit the sizes, at most 16 states per lane."""
    BN, least = power_of_two(shape.N), max(1, power_of_two(shape.N) // LANES)
    RNs = [VECTOR if shape.N % VECTOR == 0 and least <= VECTOR else least]
    RDs = [r for r in (4, 2, 1) if r == 1 or (shape.D % VECTOR == 0 and r * LANES * RNs[0] // BN <= 2 * shape.D)]
    return [(RN, RD) for RN, RD in product(RNs, RDs) if RN * RD <= 16] or [(RNs[0], 1)]


def _cut(shape: Shape, RN: int, RD: int, processors: int) -> Config:
    """Return the configuration of this tile whose chunks and merging fill `processors`."""
    whole = Config(RN, RD, 1, False)
    warps = shape.B * shape.K * channel_blocks(shape, whole)
    wanted = processors * WARPS_PER_PROCESSOR
    PW = _warps(shape, whole)
    if warps < wanted // 2 and shape.L >= 256:  # a chunked scan computes its exponentials twice
        return Config(RN, RD, min(-(-wanted // warps), shape.L // 64), False, PW)
    return Config(RN, RD, 1, shape.cross and shape.K > 1 and warps // shape.K >= wanted, PW)


def _warps(shape: Shape, config: Config) -> int:
    """Return the warps of a program: in backward as many as can share the channels evenly, else one."""
    warps = MOST_WARPS if shape.backward else 1
    while warps > 1 and channel_blocks(shape, config) % warps:
        warps //= 2
    return warps


def heuristic(shape: Shape, processors: int) -> Config:
    """Return a configuration from sizes alone: wide tiles forward, 8 states per lane backward (registers)."""
    choices = _register_choices(shape)
    most = 8 if shape.backward else 16
    RN, RD = max((c for c in choices if c[0] * c[1] <= most), default=choices[-1], key=lambda c: (c[0] * c[1], c[0]))
    return _cut(shape, RN, RD, processors)


def fits(shape: Shape, config: Config) -> bool:
    """Return whether a remembered configuration can serve this shape."""
    registers = (config.RN, config.RD) in _register_choices(shape)
    return (
        registers
        and 1 <= config.chunks <= max(1, shape.L // steps(shape.L))
        and config.PW in (1, 2, 4, 8)
        and (config.PW == 1 or shape.backward)
        and not (config.merge and (config.chunks > 1 or not shape.cross))
    )


def candidates(shape: Shape, processors: int) -> list[Config]:
    """Return the configurations worth measuring, the heuristic's first."""
    found = [heuristic(shape, processors)]
    for RN, RD in _register_choices(shape):
        if (RN * RD < 4 and shape.N >= 4) or (shape.backward and RN * RD > 8):
            continue  # too little work per lane; too many registers
        cut = _cut(shape, RN, RD, processors)
        found.append(cut)
        if cut.chunks > 1:
            counts = (1, max(2, cut.chunks // 2), cut.chunks * 2)
            found += [replace(cut, chunks=c) for c in counts if 32 * c <= shape.L]
        elif shape.cross and shape.K > 1:
            found.append(replace(cut, merge=not cut.merge))
        if cut.PW > 1:  # a program of fewer warps waits less often, and more memory is moved
            found.append(replace(cut, PW=cut.PW // 2))
    return list(dict.fromkeys(found))
