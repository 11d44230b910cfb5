"""Facts about a data set or a scene, as one value that travels with it. No torch here."""

from __future__ import annotations

from dataclasses import dataclass

from lemamba.utils.geometry import Geometry

Matrix = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class DataFacts:
    """Facts about a data set or a scene.

    Attributes:
        sensor: name in `lemamba.utils.sensors.SENSORS`.
        divisor: digital numbers are divided by this to reach [0, 1].
        ratio: the whole number nearest to H / h, pixels of the guide per pixel of ms.
        bands: C, bands of ms.
        guide_bands: P, bands of pan.
        rgb: 0-based bands shown as red, green, blue where the file names them; None = the sensor's.
        has_gt: whether there is a ground truth.
        response: (P, C), the guide's spectral response in the units of the data where it is known.
        psf: (S, S), how ms was blurred where it is known, on the grid of the guide.
        geometry: where pixels of ms lie under those of pan; by default as in the research toolboxes.
    """

    sensor: str
    divisor: float
    ratio: int
    bands: int
    guide_bands: int
    rgb: tuple[int, int, int] | None = None
    has_gt: bool = False
    response: Matrix | None = None
    psf: Matrix | None = None
    geometry: Geometry = None  # type: ignore[assignment]  # set below: its default depends on the ratio

    def __post_init__(self) -> None:
        """Fill in the default geometry."""
        if self.geometry is None:
            object.__setattr__(self, "geometry", Geometry.toolbox(self.ratio))
