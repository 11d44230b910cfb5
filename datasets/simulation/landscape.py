"""Plan of a synthetic landscape: parcels with crop rows, roads with cars, a river, villages, woods.

The plan is drawn in rotated and slightly bent coordinates, parcel by parcel, onto a `Ground`.
Legend: H W size in panchromatic pixels (about half a metre); angles in radians; all randomness from one generator.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lemamba.datasets.simulation.ground import INDEX, Ground, block, house, is_dry, shadow, smooth_noise, to_image, tree

_BEND = 24  # pixels by which the bends of the plan may move an edge
_FIELDS = (
    ("crop", "dark soil", 0.25),
    ("crop", "grass", 0.5),
    ("grass", "stubble", 0.4),
    ("stubble", "light soil", 0.5),
    ("light soil", "dark soil", 0.4),
    ("dark soil", "grass", 0.3),
)


@dataclass
class Parcel:
    """A rectangle in the rotated coordinates of the plan."""

    top: float
    left: float
    bottom: float
    right: float


def draw_ground(generator: np.random.Generator, shape: tuple[int, int]) -> Ground:
    """Draw a landscape of `shape` (H, W) pixels, each side at least 64."""
    angle = generator.uniform(-0.5, 0.5)
    rows, columns = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    plan = (
        np.cos(angle) * rows - np.sin(angle) * columns,
        np.sin(angle) * rows + np.cos(angle) * columns,
    )
    bend = 5 * smooth_noise(generator, (2 * shape[0], shape[1]), 190)  # no road is quite straight
    plan = tuple((p + b).astype(np.float32) for p, b in zip(plan, np.split(bend, 2), strict=True))
    ground = Ground(*(np.zeros(shape, t) for t in (np.int8, np.int8, np.float32, np.float32, np.float32)))
    bounds = Parcel(plan[0].min(), plan[1].min(), plan[0].max(), plan[1].max())
    parcels, roads = _divide(generator, bounds, 0)
    houses, woods = [], []
    for number, parcel in enumerate(parcels):
        kind = generator.choice(["field", "village", "wood", "orchard"], p=[0.42, 0.36, 0.12, 0.10])
        kind = "village" if number == 0 else kind
        inside = _window(plan, parcel, angle, shape)
        _draw_parcel(generator, ground, plan, inside, kind)
        if kind == "village":
            houses.append(parcel)
        elif kind != "field":
            woods.append((parcel, kind))
    _texture(generator, ground)
    for road in roads:
        _draw_road(generator, ground, plan, road, angle)
    bank = _draw_river(generator, ground, rows, columns)
    for parcel in houses:
        _draw_village(generator, ground, parcel, angle, bank)
    for parcel, kind in woods:
        _plant(generator, ground, parcel, angle, bank, kind)
    _line_banks(generator, ground, bank)
    return ground


def _divide(generator: np.random.Generator, parcel: Parcel, depth: int) -> tuple[list[Parcel], list[tuple]]:
    """Split a rectangle recursively; the first cuts become roads, the later ones paths or bare edges."""
    height, width = parcel.bottom - parcel.top, parcel.right - parcel.left
    longest = max(height, width)
    if longest < 130 or (longest < 260 and generator.random() < 0.35):
        return [parcel], []
    across = height > width
    share = generator.uniform(0.35, 0.65)
    top, left, bottom, right = parcel.top, parcel.left, parcel.bottom, parcel.right
    at = top + share * height if across else left + share * width
    if across:
        halves = [Parcel(top, left, at, right), Parcel(at, left, bottom, right)]
    else:
        halves = [Parcel(top, left, bottom, at), Parcel(top, at, bottom, right)]
    parcels, roads = [], [(across, at, parcel, depth)]
    for half in halves:
        more, more_roads = _divide(generator, half, depth + 1)
        parcels += more
        roads += more_roads
    return parcels, roads


def _window(plan: tuple, parcel: Parcel, angle: float, shape: tuple[int, int]) -> tuple[slice, slice, np.ndarray]:
    """Return the slices of the image that enclose a parcel and the mask of its pixels within them."""
    corners = np.array([[y, x] for y in (parcel.top, parcel.bottom) for x in (parcel.left, parcel.right)])
    corners = to_image(angle, corners)
    low = np.clip(np.floor(corners.min(0)).astype(int) - _BEND, 0, shape)
    high = np.clip(np.ceil(corners.max(0)).astype(int) + _BEND, 0, shape)
    window = slice(low[0], high[0]), slice(low[1], high[1])
    u, v = plan[0][window], plan[1][window]
    mask = (u >= parcel.top) & (u < parcel.bottom) & (v >= parcel.left) & (v < parcel.right)
    return *window, mask


def _draw_parcel(generator: np.random.Generator, ground: Ground, plan: tuple, inside: tuple, kind: str) -> None:
    """Cover a parcel with soil or crop; fields get crop rows along one axis of the plan."""
    *window, mask = inside
    if not mask.any():
        return
    where = tuple(index + w.start for index, w in zip(np.nonzero(mask), window, strict=True))
    if kind == "field":
        first, second, share = _FIELDS[generator.integers(len(_FIELDS))]
        share = float(np.clip(share + generator.normal(0, 0.15), 0, 1))
    else:
        first, second, share = "grass", "dark soil", generator.uniform(0.1, 0.5)
    ground.paint(where, first, second, share)
    ground.light[where] = generator.uniform(0.85, 1.15)
    if kind == "field":
        across = plan[generator.integers(2)][where]
        period, depth = generator.uniform(5, 14), generator.uniform(0.0, 0.10)
        wave = np.sin(2 * np.pi * across / period)
        ground.light[where] *= 1 + depth * wave
        ground.mix[where] = np.clip(share + 1.5 * depth * wave, 0, 1)
        if generator.random() < 0.5:  # tracks of the tractor
            lines = np.abs(across % generator.uniform(30, 50) - 4) < 1.2
            ground.mix[where] = np.where(lines, 0.9, ground.mix[where])


def _texture(generator: np.random.Generator, ground: Ground) -> None:
    """Add texture to the soil: moisture over tens of pixels, grain over one or two."""
    shape = ground.mix.shape
    patches = smooth_noise(generator, shape, 60) + 0.6 * smooth_noise(generator, shape, 17)
    grain = smooth_noise(generator, shape, 2) + 0.7 * generator.standard_normal(shape)
    ground.mix[:] = np.clip(ground.mix + 0.09 * patches, 0, 1)
    ground.light *= 1 + 0.05 * patches + 0.035 * grain


def _draw_road(generator: np.random.Generator, ground: Ground, plan: tuple, road: tuple, angle: float) -> None:
    """Draw one cut of the plan as a road (first cuts), a dirt track or a hedge, gently bent; cars on the roads."""
    across, at, parcel, depth = road
    *window, _ = _window(plan, parcel, angle, ground.light.shape)  # a cut never leaves the parcel it divides
    corner = [part.start for part in window]
    u, v = (axis[tuple(window)] for axis in plan)
    main, along = (u, v) if across else (v, u)

    def where(mask: np.ndarray) -> tuple:
        return tuple(index + start for index, start in zip(np.nonzero(mask), corner, strict=True))

    low, high = (parcel.left, parcel.right) if across else (parcel.top, parcel.bottom)
    distance = np.abs(main - at)
    within = (along >= low) & (along <= high)
    if depth <= 3:
        half = (9.0, 7.0, 5.5, 4.0)[depth]
        ground.paint(where(within & (distance < half + 2.5)), "concrete", "dark soil", 0.45)
        ground.paint(where(within & (distance < half)), "asphalt", "concrete", generator.uniform(0, 0.25))
        dashes = within & (distance < 0.7) & (along % 14 < 8)
        ground.paint(where(dashes), "bright roof", "asphalt", 0.35)
        _park_cars(generator, ground, (across, at, low, high, half), angle)
    elif generator.random() < 0.6:
        ground.paint(where(within & (distance < generator.uniform(1.2, 2.4))), "light soil", "stubble", 0.3)


def _park_cars(generator: np.random.Generator, ground: Ground, lane: tuple, angle: float) -> None:
    """Put cars, about 9 by 4 pixels, on both sides of a road."""
    across, at, low, high, half = lane
    for _ in range(int((high - low) / 70)):
        side = generator.choice([-1, 1])
        spot = [at + side * half * 0.5, generator.uniform(low, high)]
        centre = to_image(angle, np.array(spot if across else spot[::-1]))
        size = (4.0, 9.0) if across else (9.0, 4.0)
        shadow(ground, centre, size, angle, 3.0)
        roof = str(generator.choice(["bright roof", "grey roof", "blue roof", "asphalt", "tile roof"]))
        block(ground, centre, size, angle, roof, float(generator.uniform(0.6, 1.3)))


def _draw_river(generator: np.random.Generator, ground: Ground, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Draw a winding river and a pond; return the signed distance to the water's edge (negative in the water)."""
    height, width = rows.shape
    knots = np.linspace(0, height, 7)
    path = generator.uniform(0.15, 0.85) * width + np.cumsum(generator.normal(0, 0.06 * width + 10, 7))
    bend = np.polynomial.Polynomial.fit(knots, path, 5)(np.arange(height))
    half = 16 + 6 * smooth_noise(generator, (height, 8), 90)[:, :1]
    edge = np.abs(columns - bend[:, None]) - np.clip(half, 7, 34) + 1.5 * smooth_noise(generator, rows.shape, 12)
    centre = generator.uniform(0.1, 0.9, 2) * (height, width)
    radius = generator.uniform(18, 46)
    pond = np.hypot((rows - centre[0]) * generator.uniform(0.6, 1), columns - centre[1]) - radius
    edge = np.minimum(edge, pond + 5 * smooth_noise(generator, rows.shape, 24))
    bridges = ground.first == INDEX["asphalt"]  # roads stay: they cross on bridges
    ground.paint(np.nonzero((edge < 5) & ~bridges), "grass", "light soil", 0.35)
    water = np.nonzero((edge < 0) & ~bridges)
    ground.paint(water, "water", "shallow")
    ground.mix[water] = np.clip(1 + edge[water] / 9, 0, 1)
    ground.light[water] = 1 + 0.04 * smooth_noise(generator, rows.shape, 5)[water]
    return edge


def _draw_village(
    generator: np.random.Generator, ground: Ground, parcel: Parcel, angle: float, bank: np.ndarray
) -> None:
    """Fill a parcel with houses on a jittered grid, drives, gardens and single trees."""
    pitch = generator.uniform(34, 62)
    ridge_along = generator.random() < 0.5
    for y in np.arange(parcel.top + pitch / 2 + 8, parcel.bottom - pitch / 3 - 8, pitch):
        for x in np.arange(parcel.left + pitch / 2 + 8, parcel.right - pitch / 3 - 8, pitch):
            centre = to_image(angle, np.array([y, x]) + generator.normal(0, 2.0, 2))
            if not is_dry(bank, centre, 22) or generator.random() < 0.08:
                continue
            size = tuple(generator.uniform((0.34, 0.34), (0.62, 0.62)) * pitch)
            house(generator, ground, centre, size, angle, ridge_along)
            for _ in range(generator.integers(0, 4)):
                spot = centre + generator.uniform(-0.55, 0.55, 2) * pitch
                if np.abs(spot - centre).max() > 0.4 * pitch and is_dry(bank, spot, 4):
                    tree(generator, ground, spot, generator.uniform(2.5, 5.5))


def _plant(
    generator: np.random.Generator, ground: Ground, parcel: Parcel, angle: float, bank: np.ndarray, kind: str
) -> None:
    """Fill a parcel with trees: in rows (orchard) or at random (wood)."""
    if kind == "orchard":
        pitch = generator.uniform(10, 15)
        y, x = np.mgrid[parcel.top + 8 : parcel.bottom - 6 : pitch, parcel.left + 8 : parcel.right - 6 : pitch]
        points = np.stack([y.ravel(), x.ravel()], 1) + generator.normal(0, 0.6, (y.size, 2))
        radii = np.full(len(points), pitch * 0.33)
    else:
        area = max(parcel.bottom - parcel.top - 14, 0) * max(parcel.right - parcel.left - 14, 0)
        points = generator.uniform(0, 1, (int(area / 38), 2))
        points = points * (parcel.bottom - parcel.top - 14, parcel.right - parcel.left - 14)
        points += (parcel.top + 7, parcel.left + 7)
        radii = generator.uniform(3, 7.5, len(points))
    for point, radius in zip(to_image(angle, points), radii, strict=True):
        if is_dry(bank, point, 3):
            tree(generator, ground, point, float(radius))


def _line_banks(generator: np.random.Generator, ground: Ground, bank: np.ndarray) -> None:
    """Plant bushes and trees along the water."""
    near = np.argwhere((bank > 2) & (bank < 9) & (ground.first != INDEX["asphalt"]))
    if len(near):
        for point in near[generator.integers(0, len(near), len(near) // 90)]:
            tree(generator, ground, point.astype(float), generator.uniform(2, 5))
