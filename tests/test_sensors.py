"""THE table of sensors and data sets, row by row: bands, divisor, gains, RGB bands, file names.

The numbers are those of the field (Vivone et al., GRSM 2015 and 2021; PanCollection); a wrong one would go unnoticed in
every other test that takes them from the same table.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from lemamba.utils.errors import UserError
from lemamba.utils.sensors import (
    DATASETS,
    MATLAB_TABLE,
    SENSORS,
    divisor_of,
    find_sensor,
    get_dataset,
    get_sensor,
    matlab_table,
    normalise_sensor,
)

# name: bands, divisor, RGB (1-based, as written in the field), MS gains, PAN gain
ROWS = {
    "WV3": (8, 2047, (5, 3, 2), (0.325, 0.355, 0.360, 0.350, 0.365, 0.360, 0.335, 0.315), 0.14),
    "WV2": (8, 2047, (5, 3, 2), (*[0.35] * 7, 0.27), 0.11),
    "QB": (4, 2047, (3, 2, 1), (0.34, 0.32, 0.30, 0.22), 0.15),
    "IKONOS": (4, 2047, (3, 2, 1), (0.26, 0.28, 0.29, 0.28), 0.17),
    "WV4": (4, 2047, (3, 2, 1), (0.23,) * 4, 0.16),
    "GeoEye1": (4, 2047, (3, 2, 1), (0.23,) * 4, 0.16),
    "GF2": (4, 1023, (3, 2, 1), (0.3,) * 4, 0.15),
    "CAVE": (31, 1, (30, 20, 10), (0.3,) * 31, 0.15),
    "Harvard": (31, 1, (30, 20, 10), (0.3,) * 31, 0.15),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_row_says_what_the_field_says(name):
    bands, divisor, rgb, gains, pan_gain = ROWS[name]
    sensor = get_sensor(name.swapcase())
    assert (sensor.name, sensor.bands, sensor.divisor) == (name, bands, divisor)
    assert tuple(band + 1 for band in sensor.rgb) == rgb
    assert sensor.gains(bands) == gains
    assert sensor.pan_gain == pan_gain
    assert ("no published gains" in sensor.note) == (name in ("GF2", "CAVE", "Harvard"))


def test_every_row_is_consistent():
    """A new sensor needs its row only; these rules hold it."""
    assert {*ROWS, "none"} <= {s.name for s in SENSORS.values()}
    for sensor in SENSORS.values():
        assert len(sensor.ms_gains) in (1, sensor.bands)
        assert all(0 < gain < 1 for gain in (*sensor.ms_gains, sensor.pan_gain))
        assert sensor.bands is None or max(sensor.rgb) < sensor.bands
        assert sensor.published_gains == "" or len(get_sensor(sensor.published_gains).ms_gains) == sensor.bands
    names = [normalise_sensor(n) for s in SENSORS.values() for n in (s.name, *s.aliases)]
    assert len(set(names)) == len(names)


def test_wavelengths_are_in_the_order_of_the_bands():
    """Red, green and blue, by `rgb`, have falling wavelengths; there is one for each band."""
    for sensor in SENSORS.values():
        centres = sensor.wavelengths
        assert len(centres) in (0, sensor.bands or 6)
        if centres:
            red, green, blue = (centres[band] for band in sensor.rgb)
            assert red > green > blue >= 400 and max(centres) < 2500
    # limits as published for WorldView-2 and -3, GeoEye-1 and SPOT 6/7 (blue, green, red, near infrared)
    limits = {"GeoEye1": ((450, 510), (510, 580), (655, 690), (780, 920))}
    limits["WV3"] = limits["WV2"] = (
        *((400, 450), (450, 510), (510, 580), (585, 625), (630, 690), (705, 745), (770, 895), (860, 1040)),
    )
    limits["SPOT6"] = ((625, 695), (530, 590), (450, 520), (760, 890))
    for name, edges in limits.items():
        assert get_sensor(name).wavelengths == pytest.approx([sum(edge) / 2 for edge in edges], abs=0.5)


def test_the_nameless_sensor_fits_any_number_of_bands():
    nameless = get_sensor("other")
    assert (nameless.name, nameless.bands, nameless.divisor) == ("none", None, 1)
    assert nameless.gains(3) == (0.3,) * 3


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("QuickBird", "QB"),
        ("quick bird", "QB"),
        ("WorldView-3", "WV3"),
        ("WorldView3", "WV3"),
        ("WV-3", "WV3"),
        ("wv_2", "WV2"),
        ("WorldView-4", "WV4"),
        ("GaoFen-2", "GF2"),
        ("GF-2", "GF2"),
        ("GE1", "GeoEye1"),
        ("Landsat-8", "Landsat8"),
        ("S2A", "Sentinel2"),
        ("SPOT-7", "SPOT6"),
        ("PHR1B", "Pleiades"),
        ("WorldView Legion", "WVLegion"),
        ("GeoEye-1", "GeoEye1"),
    ],
)
def test_other_spellings_name_the_same_sensor(spelling, name):
    assert get_sensor(spelling) is SENSORS[name.lower()]


def test_an_unknown_sensor_suggests_the_nearest():
    with pytest.raises(UserError, match=r'unknown sensor "WorldVeiw3" \(did you mean "WorldView3"\?\); known: WV3, '):
        get_sensor("WorldVeiw3")
    assert find_sensor("WorldVeiw3") is None


def test_the_matlab_table_is_the_one_written_from_here():
    """After a change of the table: make matlab-tables."""
    package = Path(__file__).resolve().parent.parent / "Pansharpening_Hyper_SR_Matlab_Test_Package"
    assert (package / MATLAB_TABLE).read_text(encoding="utf-8") == matlab_table()


@pytest.mark.parametrize("name", [n for n in ROWS if len(set(ROWS[n][3])) > 1])
def test_gains_are_never_cut_to_another_number_of_bands(name):
    for bands in (ROWS[name][0] - 1, ROWS[name][0] + 1):
        with pytest.raises(UserError, match="name another sensor"):
            get_sensor(name).gains(bands)


# Bands, divisor, RGB (1-based in the product's order) of the sensors whose gains are not published band by band.
PRODUCTS = {
    "Landsat8": (None, 65535, (3, 2, 1)),
    "Landsat9": (None, 65535, (3, 2, 1)),
    "Pleiades": (4, 4095, (1, 2, 3)),
    "SPOT6": (4, 4095, (1, 2, 3)),
    "PlanetScope": (4, 10000, (3, 2, 1)),
    "PlanetScope8": (8, 10000, (6, 4, 2)),
    "SkySat": (4, 10000, (3, 2, 1)),
    "GF1": (4, 1023, (3, 2, 1)),
    "GF6": (4, 4095, (3, 2, 1)),
    "Jilin1": (4, 1023, (3, 2, 1)),
    "KOMPSAT3": (4, 16383, (3, 2, 1)),
    "WVLegion": (8, 2047, (5, 3, 2)),
    "PRISMA": (None, 65535, (32, 21, 10)),
    "EnMAP": (None, 10000, (43, 28, 10)),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_product_without_published_gains_says_so(name):
    bands, divisor, rgb = PRODUCTS[name]
    sensor = get_sensor(name)
    assert (sensor.bands, sensor.divisor, tuple(band + 1 for band in sensor.rgb)) == (bands, divisor, rgb)
    assert sensor.ms_gains == (0.3,) and sensor.pan_gain == 0.15 and "no published gains" in sensor.note


def test_sentinel_2_has_the_gains_that_were_measured():
    """Per band, B1 to B12 with B8A after B8: ESA's measurements as listed by S2Sharp (Ulfarsson et al. 2019)."""
    bands = ["B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B11", "B12"]
    gains = dict(zip(bands, (0.32, 0.26, 0.28, 0.24, 0.38, 0.34, 0.34, 0.26, 0.33, 0.26, 0.22, 0.23), strict=True))
    sensor = get_sensor("sentinel-2")
    assert sensor.gains(6) == tuple(gains[b] for b in ("B5", "B6", "B7", "B8A", "B11", "B12"))
    assert sensor.pan_gain == pytest.approx(sum(gains[b] for b in ("B2", "B3", "B4", "B8")) / 4)
    assert get_sensor("none").rgb_for(6) == (2, 1, 0)  # not its false colours


@pytest.mark.parametrize(
    ("top", "dtype", "divisor"),
    [
        (200, "uint8", 255),
        (0.9, "float32", 1),
        (1.4, "float64", 1),
        (1.6, "float32", 255),
        (255, "uint16", 255),
        (256, "uint16", 1023),
        (1900, "uint16", 2047),
        (3000, "int16", 4095),
        (9000, "uint16", 10000),
        (12000, "uint16", 16383),
        (40000, "uint16", 65535),
        (70000, "uint32", 131071),
        (0, "uint16", 255),
    ],
)
def test_the_divisor_of_an_unknown_sensor_follows_range_and_type(top, dtype, divisor):
    assert divisor_of(top, dtype) == divisor


@pytest.mark.parametrize(("bands", "expected"), [(8, (4, 2, 1)), (4, (2, 1, 0)), (3, (2, 1, 0)), (1, (0, 0, 0))])
def test_images_of_fewer_bands_still_have_three_to_show(bands, expected):
    assert get_sensor("WV3").rgb_for(bands) == expected


def test_data_sets_have_the_published_file_names():
    assert set(DATASETS) == {
        *("wv3", "wv2", "qb", "gf2", "ikonos", "geoeye1", "wv4", "demo"),
        *("cave_x4", "cave_x8", "harvard_x4", "harvard_x8"),
    }
    assert get_dataset("GF2").files == {
        "train": "train_gf2.h5",
        "valid": "valid_gf2.h5",
        "test": "test_gf2_multiExm1.h5",
        "test_full": "test_gf2_OrigScale_multiExm1.h5",
    }
    assert get_dataset("cave-x8").files == {s: f"{s}_cave_x8.h5" for s in ("train", "valid", "test")}
    for name, entry in DATASETS.items():
        hmif = name.startswith(("cave", "harvard"))
        assert entry.task == ("hmif" if hmif else "pansharpening")
        assert entry.ratio == (8 if name.endswith("x8") else 4)
        assert entry.sensor.lower() == ("wv3" if name == "demo" else name.partition("_")[0])
