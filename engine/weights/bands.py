"""Initial weights for data of other bands: the layers that depend on the bands are mapped by wavelength, or remade.

No network is known here. The tensors that depend on the bands are those whose shapes differ between the network built
for the bands of the weights and for those of the data. What their channels stand for is found by running the network:

- an input channel belongs to a band if, of all bands of ms and lms, only this one changes it;
- an output channel belongs to a band if its gradient comes from this band of sr only.

With x the bands of the weights' sensor, y those of the data's, and N, M the linear interpolations along the wavelengths
x ≈ N y and y ≈ M x (bands outside the other sensor's range take its nearest), weights of input channels become Nᵀ w and
those of output channels M w. Both are the identity for the same sensor. Inside a network, where all bands are mixed,
C channels are taken for the bands in their order, C + P for the bands and then the guide, C·r² for the bands before a
pixel shuffle; the log says "assumed". Other widths cannot be mapped: such a tensor starts anew.

Legend: C bands, P guide bands; a channel's owner is (kind, number, how many channels of the same owner precede it).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lemamba.engine.weights.files import WeightFile, load_weights
from lemamba.utils.errors import UserError
from lemamba.utils.sensors import get_sensor

State = dict[str, Tensor]
Owner = tuple[str, int, int]
Build = Callable[[int, int], nn.Module]
_SIZES = (8, 4, 31, 3, 6, 10, 5, 7, 13, 2, 1)  # bands tried for files that do not name theirs, the usual ones first
_SIDE = 16  # pixels of lms in a probe
_NOISE = 0.05  # weights of a probe are moved by this, so that no path is closed by zeros


@dataclass(frozen=True)
class Bands:
    """Bands C, guide bands P and sensor of weights or data; sensor None = not known."""

    bands: int
    guide: int
    sensor: str | None

    def __str__(self) -> str:
        """Return e.g. ``WV3, 8 + 1 bands``."""
        return f"{self.sensor or 'unknown sensor'}, {self.bands} + {self.guide} bands"

    def wavelengths(self) -> tuple[float, ...]:
        """Return the centres of the bands in nm; a sensor without them is a `UserError`."""
        known = get_sensor(self.sensor).wavelengths if self.sensor else ()
        if len(known) != self.bands:
            raise UserError(
                f"--adapt_bands wavelength: expected sensors whose {self.bands} wavelengths are in utils/sensors.py, "
                f"given {self.sensor or 'weights that do not name theirs'}; name them with --pretrain_sensor and "
                "--sensor, or use --adapt_bands remake"
            )
        return known


def interpolation(wanted: Sequence[float], known: Sequence[float]) -> Tensor:
    """Return the matrix (len(wanted), len(known)) that interpolates linearly along wavelengths, in any order.

    Rows sum to 1; outside the known range the nearest band is taken.
    """
    order = sorted(range(len(known)), key=known.__getitem__)
    matrix = torch.zeros(len(wanted), len(known), dtype=torch.float64)
    for row, at in enumerate(wanted):
        right = next((i for i, band in enumerate(order) if known[band] >= at), len(order) - 1)
        left = max(right - 1, 0)
        low, high = known[order[left]], known[order[right]]
        share = 1.0 if high <= low else min(max((at - low) / (high - low), 0.0), 1.0)
        matrix[row, order[left]] += 1 - share
        matrix[row, order[right]] += share
    return matrix


def adapt_bands(
    model: nn.Module,
    file: WeightFile,
    convert: Callable[[State], State],
    *,
    build: Build,
    target: Bands,
    ratio: int = 4,
    by_wavelength: bool = True,
    sensor: str | None = None,
) -> dict[str, str]:
    """Load weights of other bands into `model`.

    Args:
        model: the network for the data, newly built; what cannot be taken from the weights stays as it is.
        file: from `open_weights`.
        convert: published names to ours, see `load_weights`.
        build: builds the same network for (C, P).
        target: the data.
        ratio: of the data.
        by_wavelength: map the tensors that depend on the bands; False leaves them as built.
        sensor: of the weights, where the file does not name it.

    Returns:
        Rows for the log: what was done with each tensor that depends on the bands.

    Raises:
        UserError: weights of another network, or sensors without wavelengths.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        source, start = _source(file, convert, build, target, sensor)
        other = model
        if (source.bands, source.guide) == (target.bands, target.guide):
            other = build(source.bands + 1, source.guide)  # which tensors depend on the bands
        like = other.state_dict()
        dependent = _differing(start, like)
        maps: dict[str, Mapped] = {}
        if by_wavelength and dependent:
            maps = _maps(build, source, target, dependent, ratio)
    own = model.state_dict()
    parameters = {name for name, _ in model.named_parameters()}
    rows: dict[str, str] = {}
    counts: Counter[str] = Counter(kept=len(own) - len(dependent))
    for name in own:
        if name not in dependent:
            own[name].copy_(start[name])
            continue
        done, text = "remade", "remade"
        if name not in parameters:
            done, text = "as built", "fixed by the bands, as built"
        elif name in maps:
            done, text = "mapped", f"{maps[name].text} by wavelength"
            own[name].copy_(maps[name].apply(start[name], own[name]))
        elif own[name].shape == start[name].shape:  # the same number of bands: nothing better is known
            done, text = "kept", "kept, belongs to no single band"
            own[name].copy_(start[name])
        counts[done] += 1
        rows[f"  {name}"] = f"{_shape(start[name])} -> {_shape(own[name])}: {text}"
    tensors = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    return {"initial weights": f"{file.path} ({source}), for {target}: {tensors}"} | rows


def _source(
    file: WeightFile, convert: Callable[[State], State], build: Build, target: Bands, sensor: str | None
) -> tuple[Bands, State]:
    """Return the bands of the weights, and the weights under our names."""
    described = file.meta.get("model", {}).get("args", {})
    named = sensor or file.meta.get("data", {}).get("sensor")
    if "img_channel" in described:
        bands, guide = int(described["img_channel"]), int(described.get("condition_channel", 1))
        network = load_weights(build(bands, guide), file, convert)
        return Bands(bands, guide, named), network.state_dict()
    failure: UserError | None = None
    for guide in dict.fromkeys((target.guide, 1, 3)):
        for bands in dict.fromkeys((target.bands, *_SIZES)):
            try:
                network = load_weights(build(bands, guide), file, convert)
            except UserError as error:
                failure = failure or error
                continue
            return Bands(bands, guide, named), network.state_dict()
    raise UserError(f"{failure}; no usual number of bands fits either, so these are weights of another network")


def _differing(one: State, other: State) -> dict[str, list[int]]:
    """Return the axes in which tensors of the two differ, by name."""
    if set(one) != set(other) or any(one[name].dim() != other[name].dim() for name in one):
        raise UserError("--adapt_bands: this network has other layers for other bands; train it from the start")
    found = {name: [a for a in range(t.dim()) if t.shape[a] != other[name].shape[a]] for name, t in one.items()}
    return {name: axes for name, axes in found.items() if axes}


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "1"


# ---------------------------------------------------------------------------------------------------- mapping


@dataclass(frozen=True)
class Mapped:
    """How a tensor is mapped: for each axis, a matrix (new size, old size), and which new channels it leaves out."""

    matrices: dict[int, Tensor]
    text: str

    def apply(self, old: Tensor, new: Tensor) -> Tensor:
        """Return the mapped tensor; channels that nothing is mapped to are those of `new`."""
        result = old.double()
        for axis, matrix in self.matrices.items():
            result = torch.tensordot(matrix, result, dims=([1], [axis])).movedim(0, axis)
        for axis, matrix in self.matrices.items():
            for channel in (matrix == 0).all(dim=1).nonzero().flatten().tolist():
                result.select(axis, channel).copy_(new.select(axis, channel))
        return result.to(new.dtype)


def _maps(
    build: Build, source: Bands, target: Bands, dependent: Mapping[str, list[int]], ratio: int
) -> dict[str, Mapped]:
    """Return how tensors are mapped, by name; those that cannot be are left out."""
    from_new = interpolation(source.wavelengths(), target.wavelengths())  # N, old bands from new ones
    from_old = interpolation(target.wavelengths(), source.wavelengths())  # M
    sizes = {(b.bands, b.guide) for b in (source, target)}
    owners = {size: owners_of(build(*size), *size, dependent, ratio) for size in sizes}
    old, new = (owners[b.bands, b.guide] for b in (source, target))
    found: dict[str, Mapped] = {}
    for name, axes in dependent.items():
        matrices: dict[int, Tensor] = {}
        words = []
        for axis in axes:
            before, after = old[name, axis], new[name, axis]
            known = [b for b in before if any(a.role == b.role and a.assumed == b.assumed for a in after)]
            for one in known:
                match = next(a for a in after if a.role == one.role and a.assumed == one.assumed)
                matrix = _matrix(one.owners, match.owners, from_new.T if one.role == "input" else from_old)
                if matrix is not None:
                    matrices[axis] = matrix
                    words.append(f"{one.role} channels{' (assumed)' if one.assumed else ''}")
                    break
        if len(matrices) == len(axes):
            found[name] = Mapped(matrices, " and ".join(words))
    return found


def _matrix(old: Sequence[Owner | None], new: Sequence[Owner | None], between: Tensor) -> Tensor | None:
    """Return the matrix (new, old) between channels of an axis, None if they cannot be matched.

    Bands are mapped by `between`, guide bands and channels of no owner are taken over in their order.
    """
    if sum(o is None for o in old) != sum(o is None for o in new):
        return None
    matrix = torch.zeros(len(new), len(old), dtype=torch.float64)
    free = iter([i for i, owner in enumerate(old) if owner is None])
    for row, owner in enumerate(new):
        if owner is None:
            matrix[row, next(free)] = 1
            continue
        kind, number, block = owner
        for column, other in enumerate(old):
            if other is not None and other[0] == kind and other[2] == block:
                matrix[row, column] = between[number, other[1]] if kind == "band" else float(number == other[1])
        if kind == "band" and not matrix[row].any():
            return None
    return matrix


# ---------------------------------------------------------------------------------------------------- owners


@dataclass(frozen=True)
class Owners:
    """What the channels of an axis stand for: role "input", "output" or "feature" (one per band, inside)."""

    role: str
    owners: list[Owner | None]
    assumed: bool = False


def owners_of(
    network: nn.Module, bands: int, guide: int, wanted: Mapping[str, list[int]], ratio: int = 4
) -> dict[tuple[str, int], list[Owners]]:
    """Find what the channels of some axes stand for, by running the network.

    Args:
        network: built for C = `bands` and P = `guide`; its weights are changed.
        bands, guide: C and P.
        wanted: axes by parameter name.
        ratio: of the network.

    Returns:
        By (name, axis): the owners that were found, and those that the width suggests; the first are the better ones.
    """
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(_NOISE * torch.randn_like(parameter))
    network.eval()
    found: dict[tuple[str, int], list[Owners]] = {(name, axis): [] for name, axes in wanted.items() for axis in axes}
    parameters = dict(network.named_parameters())
    inside = _forward_owners(network, bands, guide, wanted, ratio)
    reached = _reached(network, bands, guide, [name for name in wanted if name in parameters], ratio)
    for name, axes in wanted.items():
        if name not in parameters:
            continue
        module = network.get_submodule(name.rpartition(".")[0])
        for axis in axes:
            owners = _numbered(_single(reached[name, axis])) if (name, axis) in reached else []
            role = "output"
            if axis == _input_axis(module, parameters[name]):
                owners, role = inside.get((name, "in"), []), "input"
            elif not any(owners):
                owners, role = inside.get((name, "out"), []), "feature"
            size = parameters[name].shape[axis]
            if any(owners) and len(owners) == size:
                found[name, axis].append(Owners(role, owners))
            by_width = _by_width(size, bands, guide, ratio)
            if by_width:
                suggested = Owners("input" if role == "input" else "output", by_width, assumed=True)
                found[name, axis].insert(0 if None in owners else 1, suggested)
    return found


def _by_width(size: int, bands: int, guide: int, ratio: int) -> list[Owner | None]:
    """Return the owners that the width of a layer suggests, [] if it suggests none."""
    if size in (bands, bands + guide):
        return [("band", i, 0) if i < bands else ("guide", i - bands, 0) for i in range(size)]
    if size == bands * ratio**2:
        return [("band", i // ratio**2, i % ratio**2) for i in range(size)]
    return []


def _input_axis(module: nn.Module, weight: Tensor) -> int | None:
    """Return the axis of a module's weight along its input channels; None where there is none of their own."""
    if weight.dim() < 2 or getattr(module, "groups", 1) != 1:
        return None
    return 0 if isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d) else 1


def _pair(bands: int, guide: int, ratio: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return ms, lms and pan, `count` times the same images."""
    side = max(_SIDE // ratio, 2)
    ms = 0.25 + 0.5 * torch.rand(1, bands, side, side)
    lms = 0.25 + 0.5 * torch.rand(1, bands, side * ratio, side * ratio)
    pan = 0.25 + 0.5 * torch.rand(1, guide, side * ratio, side * ratio)
    return ms.repeat(count, 1, 1, 1), lms.repeat(count, 1, 1, 1), pan.repeat(count, 1, 1, 1)


@torch.no_grad()
def _forward_owners(
    network: nn.Module, bands: int, guide: int, wanted: Mapping[str, list[int]], ratio: int
) -> dict[tuple[str, str], list[Owner | None]]:
    """Return the owners of channels that enter and leave the modules of parameters, by (name, "in" or "out").

    In sample 1 + i of one batch, only band i (of ms and lms, then of the guide) differs from sample 0.
    """
    ms, lms, pan = _pair(bands, guide, ratio, 1 + bands + guide)
    for band in range(bands):
        ms[1 + band, band] = torch.rand_like(ms[0, band])
        lms[1 + band, band] = torch.rand_like(lms[0, band])
    for band in range(guide):
        pan[1 + bands + band, band] = torch.rand_like(pan[0, band])
    seen: dict[tuple[str, str], Tensor] = {}
    with _watching(network, wanted, 1 + bands + guide, seen):
        network(ms, lms, pan)
    found: dict[tuple[str, str], list[Owner | None]] = {}
    for place, changed in seen.items():  # (C + P, channels)
        of_bands, of_guide = changed[:bands], changed[bands:]
        by_band = _single(of_bands)
        by_guide = _single(of_guide)
        owners = [
            ("band", band) if band is not None else ("guide", g) if g is not None and not any_band else None
            for band, g, any_band in zip(by_band, by_guide, of_bands.any(0).tolist(), strict=True)
        ]
        found[place] = _numbered(owners)
    return found


@contextmanager
def _watching(
    network: nn.Module, wanted: Mapping[str, list[int]], count: int, seen: dict[tuple[str, str], Tensor]
) -> Iterator[None]:
    """Collect in `seen` which samples change which channels that enter and leave the modules of `wanted`."""

    def note(place: tuple[str, str], value: object, channels: int) -> None:
        if not isinstance(value, Tensor) or value.shape[:1] != (count,) or value.dim() < 2:
            return
        dims = [1, value.dim() - 1] if value.dim() > 3 else [value.dim() - 1, 1]
        dim = next((d for d in dims if value.shape[d] == channels), None)
        if dim is None:
            return
        by_channel = value.movedim(dim, 1).flatten(2) if value.dim() > 2 else value[..., None]
        apart = (by_channel[1:] - by_channel[:1]).abs().amax(2)
        changed = apart > 1e-5 * by_channel.abs().amax().clamp(min=1e-30)
        seen[place] = seen[place] | changed if place in seen else changed

    def watch(name: str) -> Callable[[nn.Module, tuple[object, ...], object], None]:
        def hook(module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
            weight = getattr(module, name.rpartition(".")[2])
            axis = _input_axis(module, weight)
            if axis is not None:
                note((name, "in"), inputs[0] if inputs else None, weight.shape[axis])
            note((name, "out"), output, weight.shape[0 if axis != 0 else 1])

        return hook

    handles = [network.get_submodule(n.rpartition(".")[0]).register_forward_hook(watch(n)) for n in wanted]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _reached(
    network: nn.Module, bands: int, guide: int, names: Sequence[str], ratio: int
) -> dict[tuple[str, int], Tensor]:
    """Return which bands of sr the channels of all axes reach: by (name, axis), booleans (C, channels).

    Each band has a binary number; the sum of the bands with a digit 1 and that of those with a 0 are followed back for
    every digit, so that C bands take 2 log2(C) passes.
    """
    sr = network(*_pair(bands, guide, ratio, 1))
    parameters = dict(network.named_parameters())
    tensors = [parameters[name] for name in names]
    weight = torch.rand_like(sr)
    touched: list[list[dict[tuple[str, int], Tensor]]] = []
    numbers = torch.arange(bands)
    for digit in range(max(1, math.ceil(math.log2(bands)))):
        pair = []
        for value in (0, 1):
            chosen = (numbers >> digit) & 1 == value
            total = (sr * weight)[:, chosen].sum()
            grads = torch.autograd.grad(total, tensors, retain_graph=True, allow_unused=True)
            marks: dict[tuple[str, int], Tensor] = {}
            for name, tensor, grad in zip(names, tensors, grads, strict=True):
                for axis in range(tensor.dim()):
                    size = tensor.shape[axis]
                    none = torch.zeros(size, dtype=torch.bool)
                    marks[name, axis] = none if grad is None else (grad.movedim(axis, 0).reshape(size, -1) != 0).any(1)
            pair.append(marks)
        touched.append(pair)
    found: dict[tuple[str, int], Tensor] = {}
    for place in touched[0][0]:
        possible = [
            torch.stack([touched[d][(band >> d) & 1][place] for d in range(len(touched))]).all(0)
            for band in range(bands)
        ]
        found[place] = torch.stack(possible)
    return found


def _single(marks: Tensor) -> list[int | None]:
    """Return, for each column of booleans (N, channels), the only row that is true, or None."""
    one = marks.sum(0) == 1
    return [int(row) if only else None for row, only in zip(marks.int().argmax(0), one, strict=True)]


def _numbered(owners: Sequence[tuple[str, int] | int | None]) -> list[Owner | None]:
    """Add to each owner how many channels of the same owner precede it; a bare number is a band."""
    counts: Counter[tuple[str, int]] = Counter()
    found: list[Owner | None] = []
    for owner in owners:
        if owner is None:
            found.append(None)
            continue
        kind, number = ("band", owner) if isinstance(owner, int) else owner
        found.append((kind, number, counts[kind, number]))
        counts[kind, number] += 1
    return found
