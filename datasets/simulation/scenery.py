"""Landscapes of drawn ground: what lies where, from fields and cities to dunes and glaciers.

Each landscape is a function that draws on a `Canvas`; sizes are in metres and become pixels by the canvas.
Legend: points are (row, column) in pixels; rectangles and cuts as in `plan`; N objects.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from lemamba.datasets.simulation.canvas import Canvas
from lemamba.datasets.simulation.fields import fractal, hillshade
from lemamba.datasets.simulation.materials import INDEX
from lemamba.datasets.simulation.plan import Plan, inset

_ROOFS = ("red tile", "brown tile", "grey roof", "dark roof", "white roof", "concrete", "metal", "blue roof",
          "green roof", "old asphalt", "gravel")  # fmt: skip
_CROPS = ("crop", "grass", "dry grass", "stubble", "dark soil", "light soil", "red soil", "autumn leaves")
_LEAVES = ("broadleaf", "conifer", "broadleaf", "autumn leaves", "scrub")
_PAINTS = ("white roof", "metal", "dark roof", "grey roof", "red paint", "blue roof", "yellow paint")


class _Palette:
    """The materials of one scene: what roofs, trees and soils look like here."""

    def __init__(self, generator: np.random.Generator) -> None:
        self.roofs = generator.permutation([INDEX[name] for name in _ROOFS])[: generator.integers(2, 7)]
        self.roof_chances = generator.dirichlet(np.ones(len(self.roofs)))
        self.crops = generator.permutation([INDEX[name] for name in _CROPS])[: generator.integers(3, 8)]
        self.crop_chances = generator.dirichlet(np.full(len(self.crops), 1.5))
        self.soil = str(generator.choice(["dark soil", "light soil", "red soil", "dry grass", "gravel"]))
        self.green = str(generator.choice(["grass", "grass", "grass", "dry grass", "scrub"]))
        self.tree = str(generator.choice(_LEAVES))
        self.other_tree = str(generator.choice(_LEAVES))
        self.road = str(generator.choice(["asphalt", "asphalt", "old asphalt", "concrete"]))
        self.water = str(generator.choice(["deep water", "deep water", "turbid water", "shallow water"]))


def draw_landscape(canvas: Canvas, name: str) -> None:
    """Draw one landscape on an empty canvas; `name` is one of `LANDSCAPES`."""
    palette = _Palette(canvas.generator)
    LANDSCAPES[name](canvas, palette)
    if canvas.generator.random() < 0.75:
        _clutter(canvas)


def _clutter(canvas: Canvas) -> None:
    """Strew small things of any material, a pixel or a few wide: huts, rocks, containers, bushes, boats."""
    generator = canvas.generator
    points = _clumped(canvas, np.exp(generator.uniform(np.log(1), np.log(150))), generator.uniform(10, 100), 2.5)
    points = points[canvas.is_dry(points) | (generator.random(len(points)) < generator.choice([0, 0, 0.1]))]
    count = len(points)
    if not count:
        return
    plan = Plan(generator, canvas.shape, 0.0)
    sizes = np.exp(generator.normal(generator.uniform(0.2, 1.0), 0.5, (count, 2))).clip(0.6, 10)  # pixels
    corners = plan.corners(np.zeros((count, 2)), sizes, generator.choice(generator.uniform(0, 3, 5), count))
    corners += points[:, None] - corners.mean(axis=1, keepdims=True)
    usual = generator.permutation([i for name, i in INDEX.items() if name not in ("cloud", "snow", "old snow")])
    kinds = generator.choice(usual[: generator.integers(3, 9)], count)
    numbers = canvas.add(kinds, "dark soil", count=count, share=generator.uniform(0, 0.6, count),
                         light=np.exp(generator.normal(0, 0.45, count)))  # fmt: skip
    canvas.blocks(corners, numbers, generator.uniform(0.1, 1.2, count) * sizes.min(axis=1), numbers)


# Parts that several landscapes share.


def _natural(canvas: Canvas, palette: _Palette, first: str, second: str, **columns: float) -> int:
    """Enter ground that changes gradually into a second material."""
    generator = canvas.generator
    given: dict[str, Any] = {"share": generator.uniform(0.1, 0.5), "mix": generator.uniform(0.1, 0.35),
             "patch": generator.uniform(0.03, 0.12), "grain": generator.uniform(0.02, 0.09)} | columns  # fmt: skip
    return int(canvas.add(first, second, light=generator.uniform(0.85, 1.15), **given)[0])


def _forest(canvas: Canvas, palette: _Palette) -> int:
    """Enter a closed canopy."""
    generator = canvas.generator
    return int(
        canvas.add(
            palette.tree, palette.other_tree, share=generator.uniform(0, 0.5), mix=0.25, patch=0.06, grain=0.04,
            crown=generator.uniform(0.5, 1.0), light=generator.uniform(0.8, 1.2),
        )[0]
    )  # fmt: skip


def _blobs(canvas: Canvas, size: float, share: float, roughness: float = 0.6) -> np.ndarray:
    """Return a mask of natural outline on the fine grid that covers a share of the image, (2H, 2W)."""
    field = fractal(canvas.generator, canvas.shape, size, 1.0, roughness)
    return canvas.fine(field) > np.quantile(field[::4, ::4], 1 - share)


def _fields(canvas: Canvas, palette: _Palette, plan: Plan, rectangles: np.ndarray) -> None:
    """Fill parcels with crops in rows, some of them in strips."""
    generator = canvas.generator
    if generator.random() < 0.6:  # some are split into strips
        split = generator.random(len(rectangles)) < generator.uniform(0.1, 0.7)
        strips, _ = plan.divide(generator, rectangles[split], canvas.pixels(generator.uniform(30, 150), 5), 0.3, 0.3)
        rectangles = np.concatenate([rectangles[~split], strips])
    rectangles = inset(rectangles, canvas.pixels(generator.choice([0.0, 0.5, 1.5])))
    count = len(rectangles)
    if not count:
        return
    middles = (rectangles[:, :2] + rectangles[:, 2:]) / 2
    direction = plan.direction(middles)
    direction = np.where(generator.random((count, 1)) < 0.5, direction, direction[:, ::-1] * [1, -1])
    period = np.maximum(generator.uniform(1.5, 12, count) / canvas.pixel, 2.2)
    wave = 2 * np.pi / period[:, None] * direction
    rows = generator.random(count) < 0.6
    first = generator.choice(palette.crops, count, p=palette.crop_chances)
    second = generator.choice(palette.crops, count, p=palette.crop_chances)
    numbers = canvas.add(
        first, second, count=count, share=generator.beta(1, 2.5, count), mix=generator.uniform(0, 0.25, count),
        patch=generator.uniform(0.01, 0.1, count), grain=generator.uniform(0.01, 0.06, count),
        stripe=rows * generator.uniform(0, 0.12, count), mix_stripe=rows * generator.uniform(0, 0.2, count),
        wave_y=wave[:, 0], wave_x=wave[:, 1], light=np.exp(generator.normal(0, 0.15, count)),
    )  # fmt: skip
    canvas.polygons(plan.outline(rectangles), numbers)


def _roads(canvas: Canvas, palette: _Palette, plan: Plan, cuts: np.ndarray, widths: np.ndarray) -> None:
    """Draw cuts as roads: paved where wide, of soil where narrow, with a verge, markings and cars."""
    generator = canvas.generator
    pixels = np.maximum(widths / canvas.pixel, 0.6)
    order = np.argsort(widths)
    cuts, widths, pixels = cuts[order], widths[order], pixels[order]
    paved = widths > 3.5
    count = len(cuts)
    if not count:
        return
    first = np.where(paved, INDEX[palette.road], INDEX[palette.soil])
    numbers = canvas.add(first, "gravel", count=count, vary=0.4, share=generator.uniform(0, 0.4, count), grain=0.03,
                         patch=0.04, mix=0.08, light=np.exp(generator.normal(0, 0.12, count)))  # fmt: skip
    verge = canvas.add(palette.green, palette.soil, share=0.4, grain=0.06, mix=0.2)[0]
    if generator.random() < 0.5:
        canvas.polygons(plan.strips(cuts, pixels * 1.5 + 1), np.full(count, verge))
    canvas.polygons(plan.strips(cuts, pixels), numbers)
    wide = pixels > 5
    if wide.any():
        paint = canvas.add("white roof", palette.road, share=0.4)
        canvas.polygons(plan.strips(cuts[wide], np.full(wide.sum(), 0.5)), np.repeat(paint, wide.sum()))
    _cars(canvas, plan, cuts[paved & (pixels > 1.5)], pixels[paved & (pixels > 1.5)])


def _cars(canvas: Canvas, plan: Plan, cuts: np.ndarray, widths: np.ndarray) -> None:
    """Put cars, 4.5 by 1.9 metres, on both lanes of roads."""
    generator = canvas.generator
    spacing = canvas.pixels(generator.choice([15, 40, 120]), 4)
    counts = ((cuts[:, 3] - cuts[:, 2]) / spacing).astype(int)
    which = np.repeat(np.arange(len(cuts)), counts)
    if not len(which):
        return
    across, at, low, high = cuts[which, 0] > 0, cuts[which, 1], cuts[which, 2], cuts[which, 3]
    lane = at + widths[which] * generator.choice([-0.25, 0.25], len(which))
    along = generator.uniform(low, high)
    centres = np.where(across[:, None], np.stack([lane, along], 1), np.stack([along, lane], 1))
    size = np.array([1.9, 4.5]) / canvas.pixel
    sizes = np.maximum(np.where(across[:, None], size, size[::-1]), 0.5)
    _put_cars(canvas, plan.corners(centres, sizes))


def _put_cars(canvas: Canvas, corners: np.ndarray) -> None:
    """Draw cars, (N, 4, 2)."""
    generator = canvas.generator
    corners = corners[_inside(canvas, corners.mean(1))]
    count = len(corners)
    if count:
        kinds = generator.choice([INDEX[name] for name in _PAINTS], count)
        numbers = canvas.add(kinds, "dark roof", count=count, share=0.2, light=np.exp(generator.normal(0, 0.25, count)))
        canvas.blocks(corners, numbers, np.full(count, 1.5 / canvas.pixel), numbers)


def _inside(canvas: Canvas, points: np.ndarray, margin: float = 8.0) -> np.ndarray:
    """Return which points (N, 2) lie on the image or close to it."""
    return np.all((points > -margin) & (points < np.array(canvas.shape) + margin), axis=1)


def _plant(canvas: Canvas, palette: _Palette, points: np.ndarray, least: float, most: float) -> None:
    """Draw trees at points of the image (N, 2), radii from `least` to `most` metres."""
    generator = canvas.generator
    points = points[_inside(canvas, points) & canvas.is_dry(points)]
    radii = generator.uniform(least, most, len(points)) / canvas.pixel
    kinds = min(len(points), 60)
    if not kinds:
        return
    light = np.exp(generator.normal(0, 0.15, kinds))
    leaves = np.where(generator.random(kinds) < 0.7, INDEX[palette.tree], INDEX[palette.other_tree])
    columns: dict[str, Any] = {
        "second": INDEX[palette.green],
        "count": kinds,
        "share": generator.uniform(0, 0.3, kinds),
        "grain": 0.1,
    }
    dark = canvas.add(leaves, light=0.72 * light, **columns)
    lit = canvas.add(leaves, kin=dark, light=1.12 * light, **columns)
    kind = generator.integers(0, kinds, len(points))
    canvas.trees(points, radii, dark[kind], lit[kind])


def _scatter(canvas: Canvas, per_hectare: float, least: float = 4.0) -> np.ndarray:
    """Return random points of the image, (N, 2), at most one in `least`^2 pixels."""
    area = canvas.shape[0] * canvas.shape[1]
    count = int(min(area * canvas.pixel**2 / 1e4 * per_hectare, area / least**2))
    return canvas.generator.uniform(-4, np.array(canvas.shape) + 4, (count, 2))


def _clumped(canvas: Canvas, per_hectare: float, clumps: float, least: float = 4.0) -> np.ndarray:
    """Return points that gather where a random field is high, (N, 2); sizes of clumps in pixels."""
    points = _scatter(canvas, 2 * per_hectare, least)
    field = fractal(canvas.generator, canvas.shape, clumps, 8, 0.5)
    row, column = (np.clip(points[:, i].astype(int), 0, canvas.shape[i] - 1) for i in (0, 1))
    return points[field[row, column] > canvas.generator.normal(0, 0.4, len(points))]


def _houses(canvas: Canvas, palette: _Palette, plan: Plan, rectangles: np.ndarray) -> None:
    """Fill parcels with houses on lots: gardens, drives, gabled and flat roofs, trees, pools."""
    generator = canvas.generator
    pitch = np.array([canvas.pixels(generator.uniform(14, 32), 3.4), canvas.pixels(generator.uniform(14, 36), 3.4)])
    fill = generator.uniform(0.4, 0.7)
    lots = []
    for rectangle in rectangles:
        counts = np.maximum(((rectangle[2:] - rectangle[:2]) / pitch).astype(int), 0)
        if counts.min() < 1:
            continue
        step = (rectangle[2:] - rectangle[:2]) / counts
        grid = np.stack(np.meshgrid(*(np.arange(n) + 0.5 for n in counts), indexing="ij"), axis=-1).reshape(-1, 2)
        lots.append(rectangle[:2] + grid * step)
    if not lots:
        return
    centres = np.concatenate(lots)
    centres = centres[_inside(canvas, plan.to_image(centres), 3 * pitch.max())]
    centres = centres[generator.random(len(centres)) > generator.uniform(0.02, 0.25)]
    count = len(centres)
    if not count:
        return
    large = pitch.min() > 9
    if large:
        yards = canvas.add(generator.choice([INDEX[palette.green], INDEX[palette.soil], INDEX["concrete"]], count,
                                            p=(0.6, 0.25, 0.15)),
                           palette.soil, count=count, share=generator.uniform(0, 0.5, count), grain=0.06, patch=0.06,
                           mix=0.2)  # fmt: skip
        canvas.polygons(plan.corners(centres, np.full((count, 2), 1.0) * pitch * 0.97), yards)
    centres = centres + generator.normal(0, 0.05, (count, 2)) * pitch
    sizes = fill * pitch * np.exp(generator.normal(0, 0.18, (count, 2)))
    angles = generator.normal(0, 0.04, count) + (generator.random(count) < 0.08) * generator.uniform(0, 1.5, count)
    corners = plan.corners(centres, sizes, angles)
    _roofed(canvas, palette, corners, generator.uniform(3.5, 9, count) / canvas.pixel, gable=0.75)
    if large:
        wings = generator.random(count) < 0.4
        offset = generator.choice([-0.5, 0.5], (wings.sum(), 2)) * sizes[wings]
        _roofed(canvas, palette, plan.corners(centres[wings] + offset, 0.55 * sizes[wings], angles[wings]),
                generator.uniform(2.5, 6, wings.sum()) / canvas.pixel, gable=0.5)  # fmt: skip
        pools = generator.random(count) < generator.choice([0, 0, 0.05, 0.3])
        blue = canvas.add("shallow water", "white roof", share=0.25, light=1.4)
        canvas.polygons(plan.corners(centres[pools] + 0.4 * pitch, np.full((pools.sum(), 2), 0.15) * pitch),
                        np.repeat(blue, pools.sum()))  # fmt: skip
    trees = generator.poisson(generator.uniform(0.2, 2.0), count)
    where = np.repeat(centres, trees, axis=0) + generator.uniform(-0.55, 0.55, (trees.sum(), 2)) * pitch
    _plant(canvas, palette, plan.to_image(where), 1.2, 4.0)


def _roofed(canvas: Canvas, palette: _Palette, corners: np.ndarray, heights: np.ndarray, gable: float) -> None:
    """Draw buildings with roofs of the scene's kinds; a share `gable` has two slopes, lit differently."""
    generator = canvas.generator
    count = len(corners)
    if not count:
        return
    kinds = generator.choice(palette.roofs, count, p=palette.roof_chances)
    light = np.exp(generator.normal(0, 0.3, count))
    mirrors = generator.random(count) < generator.choice([0, 0.01, 0.04])  # metal and glass that mirror the sun
    light = np.where(mirrors, light * generator.uniform(2, 5, count), light)
    columns: dict[str, Any] = {
        "count": count,
        "share": generator.uniform(0, 0.3, count),
        "grain": 0.05,
        "patch": 0.07,
        "mix": 0.08,
    }
    axis = corners[:, 3] - corners[:, 0]  # from the first half to the second
    axis /= np.linalg.norm(axis, axis=1, keepdims=True) + 1e-9
    tilt = generator.uniform(0.15, 0.45, count) * (generator.random(count) < gable)
    contrast = tilt * (axis @ canvas.sun) / np.tan(canvas.elevation)
    flat = canvas.add(kinds, "old asphalt", light=light * (1 - contrast).clip(0.35, 1.8), **columns)
    half = canvas.add(kinds, "old asphalt", kin=flat, light=light * (1 + contrast).clip(0.35, 1.8), **columns)
    canvas.blocks(corners, flat, heights, np.where(tilt > 0, half, flat))


def _plant_parcels(canvas: Canvas, palette: _Palette, plan: Plan, rectangles: np.ndarray) -> None:
    """Fill parcels with rows of trees: orchards and plantations."""
    generator = canvas.generator
    pitch = canvas.pixels(generator.uniform(4, 9), 2.5)
    points = []
    for top, left, bottom, right in rectangles:
        y, x = np.mgrid[top + pitch / 2 : bottom : pitch, left + pitch / 2 : right : pitch]
        points.append(np.stack([y.ravel(), x.ravel()], 1))
    if points:
        grid = np.concatenate(points)
        grid = plan.to_image(grid + generator.normal(0, 0.06 * pitch, grid.shape))
        radius = pitch * generator.uniform(0.25, 0.45) * canvas.pixel
        _plant(canvas, palette, grid, 0.9 * radius, 1.1 * radius)


def _water(canvas: Canvas, palette: _Palette, edge: np.ndarray, depth: float) -> None:
    """Cover with water where the field `edge` (H, W) is negative; shores are shallow over `depth` of its units."""
    generator = canvas.generator
    bank = canvas.add(
        "sand" if generator.random() < 0.4 else palette.soil, palette.green, share=0.3, mix=0.3, grain=0.05
    )
    fine = canvas.fine(edge)
    width = abs(generator.normal(0, 0.15)) * depth
    canvas.cover((fine < width) & (fine >= 0), int(bank[0]))
    shallow = "shallow water" if generator.random() < 0.5 else "turbid water"
    number = canvas.add(palette.water, shallow, patch=0.04, grain=0.02, vary=0.3)[0]
    canvas.cover(fine < 0, int(number))
    shallows = np.exp(np.minimum(edge, 0) / depth)
    inside = edge < 0.1 * depth
    canvas.water = (edge < 0) | (canvas.water if canvas.water is not None else False)
    if canvas.relief is not None:  # water is level
        np.copyto(canvas.relief, np.float32(1), where=edge < 0)
    canvas.extra_mix = (canvas.extra_mix if canvas.extra_mix is not None else 0) + np.where(inside, shallows, 0)
    if generator.random() < 0.5:
        waves = fractal(generator, canvas.shape, canvas.pixels(generator.uniform(8, 60), 3), 1, 0.2)
        swell = generator.uniform(0.002, 0.03)
        canvas.glint = np.where(edge < 0, np.maximum(swell * (0.6 + waves), 0), 0).astype(np.float32)


def _river(canvas: Canvas, palette: _Palette) -> None:
    """Draw a winding river: where a smooth field is zero, so its width follows from the field's slope."""
    generator = canvas.generator
    size = max(canvas.shape) * generator.uniform(0.4, 1.2)
    field = fractal(generator, canvas.shape, size, max(size / 16, 4), generator.uniform(1.0, 1.4))
    field -= np.float32(generator.uniform(-0.7, 0.7))
    slope = np.hypot(*np.gradient(field)) + 1e-3 / size
    distance = np.abs(field) / np.maximum(slope, np.quantile(slope[::8, ::8], 0.35))
    half = canvas.pixels(generator.uniform(3, 60), 1.0)
    half = min(half, 0.12 * min(canvas.shape))
    ragged = 0.15 * half * fractal(generator, canvas.shape, max(2 * half, 4), 1, 0.6)
    _water(canvas, palette, (distance - half + ragged).astype(np.float32), 0.4 * half)


def _relief(canvas: Canvas, strength: float) -> np.ndarray:
    """Give the canvas a relief and return the heights (H, W), mean 0 and variance 1."""
    generator = canvas.generator
    size = max(canvas.shape) * generator.uniform(0.2, 0.6)
    height = fractal(generator, canvas.shape, size, 2, generator.uniform(1.0, 1.3))
    ridges = fractal(generator, canvas.shape, size / 2, 2, 1.15)
    height = height - generator.uniform(0, 0.8) * np.abs(ridges)
    height = ((height - height.mean()) / height.std()).astype(np.float32)
    light = hillshade(height * np.float32(strength * size / 4), canvas.sun, canvas.elevation)
    canvas.relief = np.minimum(light, 2.2)
    return height


# Landscapes.


def _farmland(canvas: Canvas, palette: _Palette) -> None:
    generator = canvas.generator
    plan = Plan(generator, canvas.shape, generator.uniform(0.02, 0.3))
    size = canvas.pixels(generator.uniform(60, 500), 14)
    parcels, cuts = plan.divide(generator, plan.whole(), size, slim=generator.uniform(0.25, 0.45))
    kind = generator.choice(4, len(parcels), p=(0.74, 0.1, 0.09, 0.07))
    _fields(canvas, palette, plan, parcels[kind == 0])
    forest = _forest(canvas, palette)
    canvas.polygons(plan.outline(parcels[kind == 1]), np.full((kind == 1).sum(), forest))
    meadow = _natural(canvas, palette, palette.green, palette.soil)
    canvas.polygons(plan.outline(parcels[kind >= 2]), np.full((kind >= 2).sum(), meadow))
    if generator.random() < 0.35:
        canvas.cover(_blobs(canvas, 4 * size, 0.12), forest)
    if generator.random() < 0.45:
        _river(canvas, palette)
    widths = np.array([12, 9, 7, 5, 4, 3, 2.5, 2])[np.minimum(cuts[:, 4].astype(int), 7)]
    widths = np.where(generator.random(len(cuts)) < 0.6, widths, 0)
    _roads(canvas, palette, plan, cuts[widths > 0], widths[widths > 0])
    _plant_parcels(canvas, palette, plan, inset(parcels[kind == 2], 3))
    _houses(canvas, palette, plan, inset(parcels[kind == 3], canvas.pixels(6)))
    _plant(canvas, palette, _clumped(canvas, generator.uniform(0, 4), 60), 1.5, 5)


def _suburb(canvas: Canvas, palette: _Palette) -> None:
    generator = canvas.generator
    plan = Plan(generator, canvas.shape, generator.uniform(0.05, 0.5))
    size = canvas.pixels(generator.uniform(70, 180), 9)
    parcels, cuts = plan.divide(generator, plan.whole(), size, slim=0.35)
    kind = generator.choice(4, len(parcels), p=(0.75, 0.1, 0.08, 0.07))
    road = canvas.pixels(generator.uniform(3, 6), 0.6)
    paving = canvas.add(palette.road, "gravel", share=0.3, mix=0.1, grain=0.04, patch=0.05)[0]
    canvas.cover(np.ones_like(canvas.objects, bool), int(paving))
    gardens = inset(parcels, road)
    ground = _natural(canvas, palette, palette.green, palette.soil)
    canvas.polygons(plan.outline(gardens), np.full(len(gardens), ground))
    if generator.random() < 0.35:
        canvas.cover(_blobs(canvas, 5 * size, 0.15), _forest(canvas, palette))
    _halls(canvas, palette, plan, inset(parcels[kind == 1], 2 * road))
    _houses(canvas, palette, plan, inset(parcels[kind == 0], road))
    wide = cuts[cuts[:, 4] < generator.integers(2, 5)]
    _roads(canvas, palette, plan, wide, generator.uniform(8, 20, len(wide)))
    if generator.random() < 0.25:
        _river(canvas, palette)
    _plant(canvas, palette, _clumped(canvas, generator.uniform(1, 25), 40), 1.5, 5)


def _halls(canvas: Canvas, palette: _Palette, plan: Plan, rectangles: np.ndarray) -> None:
    """Fill parcels with large flat roofs, yards, parked cars, tanks and plant on the roofs."""
    generator = canvas.generator
    if not len(rectangles):
        return
    paved = generator.uniform(0, 0.7, len(rectangles))
    yards = canvas.add(palette.road, "concrete", count=len(rectangles), share=paved, patch=0.06, grain=0.04, mix=0.15)
    canvas.polygons(plan.outline(rectangles), yards)
    lots, _ = plan.divide(generator, rectangles, canvas.pixels(generator.uniform(35, 90), 5), 0.5, 0.35)
    lots = inset(lots, canvas.pixels(generator.uniform(3, 9), 0.7))
    lots = lots[_inside(canvas, plan.to_image((lots[:, :2] + lots[:, 2:]) / 2), 200)]
    kind = generator.random(len(lots))
    built = lots[kind < 0.72]
    centres, sizes = (built[:, :2] + built[:, 2:]) / 2, built[:, 2:] - built[:, :2]
    _roofed(canvas, palette, plan.corners(centres, sizes), generator.uniform(5, 16, len(built)) / canvas.pixel, 0.3)
    extra = np.repeat(np.arange(len(built)), generator.integers(0, 8, len(built)))
    extra = extra[sizes[extra].min(axis=1) > 8]
    spots = centres[extra] + generator.uniform(-0.4, 0.4, (len(extra), 2)) * sizes[extra]
    small = generator.uniform(1.0, 5.0, (len(extra), 2)) / canvas.pixel
    _roofed(canvas, palette, plan.corners(spots, np.maximum(small, 0.6)), np.full(len(extra), 2.0 / canvas.pixel), 0)
    _parking(canvas, plan, lots[(kind >= 0.72) & (kind < 0.92)])
    tanks = lots[kind >= 0.92]
    if len(tanks):
        middles = plan.to_image((tanks[:, :2] + tanks[:, 2:]) / 2)
        colour = canvas.add("white roof", "metal", count=len(tanks), share=generator.uniform(0, 1, len(tanks)))
        canvas.discs(middles, (tanks[:, 2:] - tanks[:, :2]).min(axis=1) * 0.4, colour)


def _parking(canvas: Canvas, plan: Plan, rectangles: np.ndarray) -> None:
    """Park cars in double rows, some places empty."""
    generator = canvas.generator
    if canvas.pixel > 1.6:
        return
    step = np.array([6.5, 2.7]) / canvas.pixel
    spots = []
    for top, left, bottom, right in rectangles:
        y, x = np.mgrid[top + step[0] / 2 : bottom : step[0], left + step[1] : right : step[1]]
        spots.append(np.stack([y.ravel(), x.ravel()], 1))
    if spots:
        centres = np.concatenate(spots)
        centres = centres[generator.random(len(centres)) < generator.uniform(0.3, 0.9)]
        sizes = np.broadcast_to(np.maximum(np.array([4.5, 1.9]) / canvas.pixel, 0.5), centres.shape)
        _put_cars(canvas, plan.corners(centres, sizes))


def _city(canvas: Canvas, palette: _Palette) -> None:
    generator = canvas.generator
    plan = Plan(generator, canvas.shape, generator.uniform(0.0, 0.35))
    size = canvas.pixels(generator.uniform(60, 160), 9)
    blocks, cuts = plan.divide(generator, plan.whole(), size, slim=generator.uniform(0.3, 0.48))
    paving = canvas.add(palette.road, "concrete", share=0.3, mix=0.12, grain=0.04, patch=0.05)[0]
    canvas.cover(np.ones_like(canvas.objects, bool), int(paving))
    street = canvas.pixels(generator.uniform(4, 10), 0.6)
    blocks = inset(blocks, street)
    kind = generator.choice(3, len(blocks), p=(0.8, 0.1, 0.1))
    pavement = canvas.add("concrete", palette.road, count=len(blocks), share=generator.uniform(0, 1, len(blocks)),
                          grain=0.04, patch=0.05)  # fmt: skip
    canvas.polygons(plan.outline(blocks), pavement)
    parks = blocks[kind == 1]
    lawn = _natural(canvas, palette, palette.green, palette.soil)
    canvas.polygons(plan.outline(inset(parks, 2)), np.full(len(inset(parks, 2)), lawn))
    _halls(canvas, palette, plan, blocks[kind == 2])
    lots, _ = plan.divide(generator, blocks[kind == 0], canvas.pixels(generator.uniform(10, 42), 2.6), 0.35, 0.35)
    lots = lots[_inside(canvas, plan.to_image((lots[:, :2] + lots[:, 2:]) / 2), 100)]
    lots = lots[generator.random(len(lots)) < generator.uniform(0.75, 0.97)]
    gap = np.where(generator.random(len(lots)) < 0.4, 0.1, generator.uniform(0.2, 4, len(lots)) / canvas.pixel)
    lots = inset(lots, np.minimum(gap, 0.25 * (lots[:, 2:] - lots[:, :2]).min(axis=1)))
    centres, sizes = (lots[:, :2] + lots[:, 2:]) / 2, lots[:, 2:] - lots[:, :2]
    heights = np.exp(generator.normal(np.log(generator.uniform(7, 25)), generator.uniform(0.2, 0.6), len(lots)))
    _roofed(canvas, palette, plan.corners(centres, sizes), heights / canvas.pixel, generator.uniform(0, 0.8))
    yards = generator.random(len(lots)) < 0.35  # courtyards, in the shadow of their walls
    court = canvas.add(palette.green, "concrete", count=yards.sum(), share=generator.uniform(0, 1, yards.sum()),
                       light=generator.uniform(0.4, 1.0, yards.sum()))  # fmt: skip
    canvas.polygons(plan.corners(centres[yards], 0.4 * sizes[yards]), court)
    extra = np.repeat(np.arange(len(lots)), generator.integers(0, 5, len(lots)))
    extra = extra[sizes[extra].min(axis=1) > 7]
    spots = centres[extra] + generator.uniform(-0.4, 0.4, (len(extra), 2)) * sizes[extra]
    small = np.maximum(generator.uniform(1.0, 6.0, (len(extra), 2)) / canvas.pixel, 0.6)
    _roofed(canvas, palette, plan.corners(spots, small), generator.uniform(1, 4, len(extra)) / canvas.pixel, 0.1)
    wide = cuts[cuts[:, 4] < generator.integers(3, 7)]
    _roads(canvas, palette, plan, wide, generator.uniform(8, 24, len(wide)))
    _cars(canvas, plan, cuts, np.full(len(cuts), 1.5 * street))
    if generator.random() < 0.25:
        _river(canvas, palette)
    area = np.repeat(np.arange(len(parks)), 40)
    spots = generator.uniform(parks[area, :2], parks[area, 2:])
    _plant(canvas, palette, plan.to_image(spots), 2, 5)
    _plant(canvas, palette, _clumped(canvas, generator.uniform(0, 12), 30), 1.5, 4)


def _industry(canvas: Canvas, palette: _Palette) -> None:
    generator = canvas.generator
    plan = Plan(generator, canvas.shape, generator.uniform(0.0, 0.15))
    parcels, cuts = plan.divide(generator, plan.whole(), canvas.pixels(generator.uniform(120, 300), 20), slim=0.35)
    ground = _natural(canvas, palette, palette.green, palette.soil)
    canvas.cover(np.ones_like(canvas.objects, bool), ground)
    kind = generator.choice(3, len(parcels), p=(0.65, 0.2, 0.15))
    margin = canvas.pixels(generator.uniform(5, 12), 0.8)
    _halls(canvas, palette, plan, inset(parcels[kind == 0], margin))
    bare = inset(parcels[kind == 1], margin)
    soils = canvas.add(palette.soil, "gravel", count=len(bare), share=generator.uniform(0, 1, len(bare)), patch=0.1,
                       grain=0.06, mix=0.3)  # fmt: skip
    canvas.polygons(plan.outline(bare), soils)
    widths = np.where(cuts[:, 4] < 3, 14.0, 8.0)
    _roads(canvas, palette, plan, cuts, widths)
    _plant(canvas, palette, _clumped(canvas, generator.uniform(0, 8), 40), 1.5, 4)


def _woodland(canvas: Canvas, palette: _Palette) -> None:
    generator = canvas.generator
    canvas.cover(np.ones_like(canvas.objects, bool), _forest(canvas, palette))
    palette.tree, palette.other_tree = palette.other_tree, palette.tree
    canvas.cover(_blobs(canvas, canvas.pixels(400, 30), generator.uniform(0.1, 0.5)), _forest(canvas, palette))
    meadow = _natural(canvas, palette, palette.green, palette.soil)
    canvas.cover(_blobs(canvas, canvas.pixels(300, 20), generator.uniform(0.05, 0.4), 0.8), meadow)
    if generator.random() < 0.6:
        _relief(canvas, generator.uniform(0.1, 0.5))
    plan = Plan(generator, canvas.shape, generator.uniform(0.3, 0.9))
    parcels, cuts = plan.divide(generator, plan.whole(), canvas.pixels(generator.uniform(250, 800), 40), slim=0.3)
    cleared = parcels[generator.random(len(parcels)) < 0.15]
    kinds = canvas.add(palette.green, palette.soil, count=len(cleared), share=generator.uniform(0, 1, len(cleared)),
                       patch=0.08, grain=0.08, mix=0.3)  # fmt: skip
    canvas.polygons(plan.outline(cleared), kinds)
    if generator.random() < 0.4:
        _river(canvas, palette)
    tracks = cuts[generator.random(len(cuts)) < 0.5]
    _roads(canvas, palette, plan, tracks, generator.uniform(2.5, 8, len(tracks)))
    _plant(canvas, palette, _clumped(canvas, generator.uniform(2, 30), 50), 2, 5)


def _mountains(canvas: Canvas, palette: _Palette) -> None:
    generator = canvas.generator
    height = _relief(canvas, generator.uniform(0.4, 1.1))
    rough = height + 0.35 * fractal(generator, canvas.shape, canvas.pixels(200, 12), 1, 0.2)
    rock = str(generator.choice(["grey rock", "red rock", "dark rock", "gravel"]))
    bands = [
        _natural(canvas, palette, palette.green, palette.soil),
        _forest(canvas, palette),
        _natural(canvas, palette, palette.green, rock, share=0.3, mix=0.35),
        _natural(
            canvas, palette, rock, str(generator.choice(["gravel", "dark rock", "scrub"])), grain=0.12, patch=0.12
        ),
    ]
    limits = [generator.uniform(-2.5, -0.8), generator.uniform(-0.6, 0.7), generator.uniform(0.2, 1.2)]
    fine = canvas.fine(rough)
    canvas.cover(fine < 9, bands[0])
    for limit, number in zip(limits, bands[1:], strict=True):
        canvas.cover(fine > limit, number)
    if generator.random() < 0.55:
        snow = _natural(canvas, palette, "snow", "old snow", share=0.3, mix=0.25, patch=0.03, grain=0.01)
        slope = np.hypot(*np.gradient(height))
        steep = slope / slope[::4, ::4].mean()
        canvas.cover(canvas.fine(rough - 0.25 * steep) > generator.uniform(-0.4, 1.4), snow)
    if generator.random() < 0.4:
        _water(canvas, palette, height - np.quantile(height[::8, ::8], generator.uniform(0.03, 0.12)), 0.15)
    _plant(canvas, palette, _clumped(canvas, generator.uniform(0, 8), 60), 1.5, 4)


def _coast(canvas: Canvas, palette: _Palette) -> None:
    generator = canvas.generator
    behind = generator.choice(["suburb", "farmland", "woodland", "city", "desert", "industry"])
    LANDSCAPES[behind](canvas, palette)
    direction = generator.uniform(0, 2 * np.pi)
    y, x = (np.arange(n, dtype=np.float32) / max(canvas.shape) - 0.5 for n in canvas.shape)
    ramp = np.float32(np.sin(direction)) * y[:, None] + np.float32(np.cos(direction)) * x[None]
    wiggle = fractal(generator, canvas.shape, max(canvas.shape) * 0.6, 1, generator.uniform(0.75, 1.1))
    edge = (ramp + generator.uniform(0.05, 0.35) * wiggle).astype(np.float32)
    edge -= np.quantile(edge[::8, ::8], generator.uniform(0.2, 0.7))
    pixel = 1 / max(canvas.shape)
    beach = canvas.pixels(generator.uniform(5, 80)) * pixel
    sand = _natural(canvas, palette, str(generator.choice(["sand", "light soil", "gravel", "dark rock"])), palette.soil)
    canvas.cover(canvas.fine(edge) < beach, sand)
    _water(canvas, palette, edge, canvas.pixels(generator.uniform(10, 150), 3) * pixel)
    if generator.random() < 0.5:  # surf along the beach
        foam = np.abs(edge + beach * generator.uniform(0.1, 1.0)) < canvas.pixels(2, 0.6) * pixel * 2
        patchy = fractal(generator, canvas.shape, canvas.pixels(40, 8), 1, 0.3) > generator.uniform(-0.3, 0.8)
        white = canvas.add("snow", palette.water, share=0.3, patch=0.1, grain=0.1)[0]
        canvas.cover(np.repeat(np.repeat(foam & patchy & (edge < 0), 2, 0), 2, 1), int(white))
    _boats(canvas, edge)


def _boats(canvas: Canvas, edge: np.ndarray) -> None:
    """Put boats on the water."""
    generator = canvas.generator
    points = _scatter(canvas, generator.choice([0, 0.3, 3]), 12)
    points = points[_inside(canvas, points, -1)]
    points = points[edge[tuple(points.astype(int).T)] < 0]
    count = len(points)
    if count:
        plan = Plan(generator, canvas.shape, 0.0)
        length = np.maximum(np.exp(generator.normal(2.2, 0.6, count)) / canvas.pixel, 1.0)
        corners = plan.corners(
            np.zeros((count, 2)), np.stack([length, 0.3 * length], 1), generator.uniform(0, 6, count)
        )
        corners = corners - corners.mean(axis=1, keepdims=True) + points[:, None]
        boats = canvas.add("white roof", "metal", count=count, share=generator.uniform(0, 1, count))
        canvas.polygons(corners, boats)


def _desert(canvas: Canvas, palette: _Palette) -> None:
    generator = canvas.generator
    soil = str(generator.choice(["sand", "light soil", "red soil"]))
    ground = _natural(canvas, palette, soil, str(generator.choice(["light soil", "gravel", "red soil", "salt"])))
    canvas.cover(np.ones_like(canvas.objects, bool), ground)
    if generator.random() < 0.6:
        _dunes(canvas)
    else:
        _relief(canvas, generator.uniform(0.1, 0.8))
    rock = _natural(canvas, palette, str(generator.choice(["red rock", "grey rock", "dark rock"])), soil, grain=0.12)
    canvas.cover(_blobs(canvas, canvas.pixels(600, 30), generator.uniform(0, 0.4), 0.4), rock)
    if generator.random() < 0.4:
        salt = _natural(canvas, palette, "salt", soil, share=0.4)
        canvas.cover(_blobs(canvas, canvas.pixels(1500, 60), generator.uniform(0.02, 0.2), 1.0), salt)
    palette.tree, palette.other_tree = "scrub", str(generator.choice(["broadleaf", "scrub"]))
    _plant(canvas, palette, _clumped(canvas, generator.uniform(0, 60), 60), 0.6, 3)
    plan = Plan(generator, canvas.shape, generator.uniform(0.1, 0.5))
    parcels, cuts = plan.divide(generator, plan.whole(), canvas.pixels(generator.uniform(300, 900), 40), slim=0.2)
    tracks = cuts[generator.random(len(cuts)) < 0.3]
    _roads(canvas, palette, plan, tracks, generator.uniform(2.5, 8, len(tracks)))
    _houses(canvas, palette, plan, inset(parcels[generator.random(len(parcels)) < 0.06], 4))


def _dunes(canvas: Canvas) -> None:
    """Give the canvas dunes: bent crests with a steep side away from the wind."""
    generator = canvas.generator
    length = canvas.pixels(generator.uniform(30, 250), 8)
    direction = generator.uniform(0, 2 * np.pi)
    y, x = (np.arange(n, dtype=np.float32) for n in canvas.shape)
    along = np.float32(np.sin(direction)) * y[:, None] + np.float32(np.cos(direction)) * x[None]
    bend = fractal(generator, canvas.shape, 4 * length, length / 3, 0.7)
    phase = (along / np.float32(length) + np.float32(generator.uniform(0.4, 1.0)) * bend) % 1
    crest = np.float32(generator.uniform(0.6, 0.8))
    height = np.where(phase < crest, phase / crest, (1 - phase) / (1 - crest))
    height *= np.clip(1 + 0.5 * fractal(generator, canvas.shape, 3 * length, length, 0.5), 0.1, 2)
    light = hillshade(height * np.float32(length * generator.uniform(0.05, 0.15)), canvas.sun, canvas.elevation)
    canvas.relief = np.minimum(light, 2.0)


def _winter(canvas: Canvas, palette: _Palette) -> None:
    generator = canvas.generator
    under = generator.choice(["farmland", "woodland", "suburb", "mountains"])
    LANDSCAPES[under](canvas, palette)
    snow = _natural(canvas, palette, "snow", "old snow", share=0.4, mix=0.3, patch=0.04, grain=0.02)
    open_ground = _blobs(canvas, canvas.pixels(500, 20), generator.uniform(0.3, 0.9), 0.3)
    table = canvas.table()
    cold = [
        INDEX[n] for n in ("crop", "grass", "dry grass", "stubble", "dark soil", "light soil", "red soil", "gravel")
    ]
    lying = np.isin(table["first"], cold)[canvas.objects]
    np.copyto(canvas.objects, np.int32(snow), where=open_ground & lying)


def _wetland(canvas: Canvas, palette: _Palette) -> None:
    generator = canvas.generator
    canvas.cover(np.ones_like(canvas.objects, bool), _natural(canvas, palette, "grass", "dry grass", mix=0.35))
    reed = _natural(canvas, palette, "scrub", palette.green, mix=0.3, grain=0.1)
    canvas.cover(_blobs(canvas, canvas.pixels(200, 20), 0.4), reed)
    canvas.cover(_blobs(canvas, canvas.pixels(300, 20), 0.15), _forest(canvas, palette))
    field = fractal(
        generator, canvas.shape, canvas.pixels(generator.uniform(100, 800), 30), 1, generator.uniform(0.5, 0.9)
    )
    _water(canvas, palette, field - np.quantile(field[::8, ::8], generator.uniform(0.15, 0.5)), 0.3)
    _plant(canvas, palette, _clumped(canvas, generator.uniform(0, 20), 40), 1.5, 4)


LANDSCAPES: dict[str, Callable[[Canvas, _Palette], None]] = {
    "farmland": _farmland,
    "suburb": _suburb,
    "city": _city,
    "industry": _industry,
    "woodland": _woodland,
    "mountains": _mountains,
    "coast": _coast,
    "desert": _desert,
    "winter": _winter,
    "wetland": _wetland,
}
