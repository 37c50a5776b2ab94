"""A small Sentinel-2 archive of Lake Tahoe, made on the spot: for the demo, the docs and the tests.

The files are laid out, named, scaled and described as Earth Search v1 does it, on the real grid of MGRS
tile 10SGJ. The picture is painted: relief and clouds are 1/f noise, the lakes are drawn by hand, and each
ground cover has one reflectance spectrum. Nothing is downloaded, and a seed always makes the same bytes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import numpy.typing as npt
import rasterio
import shapely
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from rasterio.features import rasterize
from shapely import affinity

__all__ = ["DATES", "lake_tahoe"]

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]

DATES = ("2024-06-02", "2024-06-07", "2024-06-22", "2024-07-07", "2024-07-12", "2024-07-27")
BOUNDS = (699_960, 4_290_240, 809_760, 4_400_040)  # MGRS tile 10SGJ, metres in EPSG:32610
EDGE = BOUNDS[2] - BOUNDS[0]
BANDS = {"blue": "B02", "green": "B03", "red": "B04", "nir": "B08"}
CLOUD_CLASSES = (8, 9)  # of the scene classification (SCL): medium and high probability

# What each overpass meets, by its place in the sequence: cloud cover, swath, processing baseline.
# Baselines from 04.00 on store reflectance shifted by 1000; one older scene keeps the archive mixed.
SKIES = (
    (0.12, "whole", "05.10"),
    (0.27, "west of", "05.10"),
    (0.06, "whole", "03.01"),
    (0.45, "whole", "05.10"),
    (0.18, "east of", "05.10"),
    (0.01, "whole", "05.10"),
)
# The swath edge follows the descending orbit, 13 degrees off north: its easting at the top and the bottom.
SWATH_EDGES = {"west of": (812_000, 786_000), "east of": (719_000, 693_000)}

# Surface reflectance in blue, green, red, nir. Water alone is brighter in green than in nir.
SPECTRA = {
    "sagebrush": (0.082, 0.108, 0.138, 0.215),
    "forest": (0.024, 0.040, 0.031, 0.205),
    "meadow": (0.036, 0.078, 0.050, 0.360),
    "granite": (0.170, 0.195, 0.215, 0.265),
    "snow": (0.780, 0.765, 0.745, 0.660),
    "water": (0.036, 0.026, 0.012, 0.005),
    "shallows": (0.074, 0.105, 0.062, 0.014),
    "cloud": (0.640, 0.625, 0.620, 0.625),
}

# The shore of Lake Tahoe, clockwise from Tahoe City, in degrees east and north.
TAHOE = (
    (-120.143, 39.168), (-120.096, 39.188), (-120.080, 39.226), (-120.052, 39.239), (-120.025, 39.236),
    (-120.005, 39.222), (-119.985, 39.247), (-119.955, 39.246), (-119.929, 39.220), (-119.931, 39.163),
    (-119.953, 39.098), (-119.942, 39.087), (-119.949, 39.045), (-119.949, 39.009), (-119.958, 38.999),
    (-119.950, 38.960), (-119.972, 38.945), (-120.030, 38.937), (-120.066, 38.944), (-120.080, 38.962),
    (-120.110, 38.948), (-120.113, 38.956), (-120.085, 38.971), (-120.093, 39.000), (-120.121, 39.037),
    (-120.111, 39.061), (-120.126, 39.072), (-120.158, 39.087), (-120.160, 39.110), (-120.152, 39.138),
)  # fmt: skip
# Smaller lakes as ellipses: longitude, latitude, length and width in metres, degrees left of east.
SMALL_LAKES = {
    "Donner": (-120.265, 39.323, 4300, 1200, 0),
    "Fallen Leaf": (-120.062, 38.900, 4600, 1300, 110),
    "Stampede": (-120.125, 39.475, 5200, 2200, 20),
    "Washoe": (-119.800, 39.262, 5600, 2900, 100),
    "French Meadows": (-120.435, 39.118, 4200, 1100, 45),
}
TRUCKEE_RIVER = (
    (-120.143, 39.168), (-120.198, 39.195), (-120.204, 39.270), (-120.183, 39.327), (-120.085, 39.372),
    (-120.020, 39.405), (-119.985, 39.500), (-119.900, 39.508), (-119.810, 39.530), (-119.700, 39.520),
)  # fmt: skip


def lake_tahoe(
    path: str | os.PathLike[str],
    *,
    resolution: int = 60,
    dates: Sequence[str] = DATES,
    seed: int = 20240601,
    progress: bool = False,
) -> Path:
    """Make a small Sentinel-2 L2A archive of Lake Tahoe, without a network.

    Each date becomes a folder of cloud-optimized GeoTIFFs (blue, green, red, nir and the scene
    classification) and an item of one STAC ItemCollection, whose hrefs are relative to it. Dates differ in
    cloud cover and snow; some meet the edge of the swath; the third keeps to a processing baseline from
    before the radiometric offset of January 2022, so that mixed baselines can be tried.

    Parameters
    ----------
    path
        The folder to write to; made if missing. Files of the same name are replaced.
    resolution
        Pixel size in metres, from 10 to 1200; divides the tile's edge of 109,800 m. The landscape is the
        same at each. The default archive takes a few seconds and 60 MB; at 10 m count on 10 GB of memory.
    dates
        The day of each overpass, as ``YYYY-MM-DD``.
    seed
        Decides the landscape, the clouds and the noise.
    progress
        Show a progress bar.

    Returns
    -------
    Path
        The ItemCollection, ``items.json``.

    Examples
    --------
    >>> items = lake_tahoe("tahoe", resolution=300)  # doctest: +SKIP
    >>> sorted(f.name for f in items.parent.iterdir())[:2]  # doctest: +SKIP
    ['S2A_10SGJ_20240602_0_L2A', 'S2A_10SGJ_20240622_0_L2A']
    """
    if not 10 <= resolution <= 1200 or EDGE % resolution:
        raise ValueError(
            f"resolution must be a whole number of metres from 10 to 1200 that divides the tile's edge of "
            f"{EDGE} m, such as 10, 20, 60, 100, 200, 300 or 600; got {resolution!r}"
        )
    if len(set(dates)) < len(dates):
        raise ValueError(f"dates must differ: one overpass makes one scene; got {list(dates)}")
    root = Path(path)
    grid = GeoBox.from_bbox(BOUNDS, "EPSG:32610", resolution=resolution)
    ground = _ground(grid, np.random.default_rng(seed))
    passes: Iterable[_Overpass] = [_Overpass.nth(n, date.fromisoformat(d)) for n, d in enumerate(dates)]
    if progress:
        from tqdm.auto import tqdm

        passes = tqdm(passes, desc="Lake Tahoe", unit="scene")
    items = [_write_scene(root, overpass, ground, grid, seed) for overpass in passes]
    collection = {"type": "FeatureCollection", "features": items}
    (root / "items.json").write_text(json.dumps(collection, indent=1), encoding="utf-8")
    return root / "items.json"


@dataclass(frozen=True, slots=True)
class _Overpass:
    """One visit of a satellite, and what it met."""

    day: date
    platform: str
    cloud_cover: float
    swath: shapely.Polygon
    baseline: str

    @classmethod
    def nth(cls, n: int, day: date) -> _Overpass:
        cover, swath, baseline = SKIES[n % len(SKIES)]
        return cls(day, "AB"[n % 2], cover, _swath(swath), baseline)

    @property
    def id(self) -> str:
        return f"S2{self.platform}_10SGJ_{self.day:%Y%m%d}_0_L2A"

    @property
    def offset(self) -> int:
        """What the baseline adds to the stored numbers."""
        return 1000 if self.baseline >= "04.00" else 0


@dataclass(frozen=True, slots=True)
class _Ground:
    """What stays from one overpass to the next; arrays are (y, x), spectra (band, y, x)."""

    spectra: Floats  # reflectance of the land and the lakes, without snow
    classes: npt.NDArray[np.uint8]  # 4 vegetation, 5 bare, 6 water
    snow_height: Floats  # elevation as snow feels it: higher on slopes that face north
    light: Floats  # relief shading, around 1


# --- the land ---------------------------------------------------------------------------------------


def _noise(rng: np.random.Generator, n: int, slope: float, longest: int = 36_600) -> Floats:
    """1/f**slope noise on n x n pixels, of unit variance, with waves up to `longest` metres.

    The spectrum is drawn down to 120 m and then cut to what n pixels can carry, so that every resolution
    shows the same landscape. It wraps around the tile's edges.
    """
    waves = EDGE // 120
    frequency = np.hypot(np.fft.fftfreq(2 * waves, 1 / (2 * waves))[:, None], np.arange(waves))
    amplitude = np.where(frequency * longest < EDGE, 0, np.maximum(frequency, 1) ** -slope)
    real, imaginary = rng.standard_normal((2, *amplitude.shape), dtype=np.float32)
    drawn = amplitude.astype(np.float32) * (real + 1j * imaginary)
    drawn /= np.sqrt(2 * np.sum(np.abs(drawn) ** 2))
    keep = min(n // 2, waves)
    spectrum = np.zeros((n, n // 2 + 1), np.complex64)
    spectrum[:keep, :keep] = drawn[:keep, :keep]
    spectrum[-keep:, :keep] = drawn[-keep:, :keep]
    return np.fft.irfft2(spectrum, (n, n), norm="forward").astype(np.float32)


def _blur(field: npt.ArrayLike, metres: float) -> Floats:
    """A Gaussian blur with a standard deviation in metres."""
    spectrum = np.fft.rfft2(np.asarray(field, np.float32))
    n = len(spectrum)
    squared = np.square(np.fft.fftfreq(n)[:, None]) + np.square(np.fft.rfftfreq(n))
    spectrum *= np.exp(-2 * squared * (np.pi * metres * n / EDGE) ** 2).astype(np.float32)
    return np.fft.irfft2(spectrum, (n, n)).astype(np.float32)


def _ramp(field: Floats, low: float, high: float) -> Floats:
    """A smooth step, from 0 at `low` to 1 at `high`."""
    t = np.clip((field - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def _paint(canvas: Floats, cover: str, fraction: Floats) -> None:
    """Lay a fraction of a ground cover over what is already on the (band, y, x) canvas."""
    for band, reflectance in zip(canvas, SPECTRA[cover], strict=True):
        band += fraction * (np.float32(reflectance) - band)


def _draw(grid: GeoBox, *shapes: shapely.Geometry) -> Floats:
    """1 inside the shapes (in metres), 0 outside."""
    return rasterize(shapes, grid.shape, transform=grid.transform, dtype="float32")


def _lakes(grid: GeoBox, rng: np.random.Generator) -> tuple[Bools, Floats]:
    """Where water is, and how shallow it is there (1 at the shore, 0 in the deep)."""
    to_metres = Transformer.from_crs("EPSG:4326", "EPSG:32610", always_xy=True).transform
    shapes = [shapely.Polygon(np.transpose(to_metres(*np.transpose(TAHOE))))]
    for longitude, latitude, length, width, turn in SMALL_LAKES.values():
        disc = shapely.Point(to_metres(longitude, latitude)).buffer(0.5)
        shapes.append(affinity.rotate(affinity.scale(disc, length, width), turn))
    drawn = _draw(grid, *shapes)
    # Noise on a blurred outline makes coves and points of a hand-drawn polygon.
    water = _blur(drawn, 180) + 0.06 * _noise(rng, len(drawn), 1.3, longest=4000) > 0.5
    depth = _blur(water, 550) + 0.05 * _noise(rng, len(drawn), 1.5, longest=6000)
    return water, np.square(_ramp(depth, 0.95, 0.45))


def _terrain(grid: GeoBox, rng: np.random.Generator) -> Floats:
    """Elevation in metres: foothills, the Sierra crest, the Tahoe basin, the Carson range, the desert."""
    n = grid.shape.x
    east, south = np.meshgrid(*[np.linspace(0, EDGE / 1000, n, dtype=np.float32)] * 2)
    wander = 2.5 * _noise(rng, n, 2.2)
    sierra = east + wander - (48 - 0.36 * (EDGE / 1000 - south - 22))  # km east of the crest
    carson = east + 0.4 * wander - 68
    crest = np.exp(-np.square(sierra / np.where(sierra < 0, 13, 6)))
    range_ = np.exp(-np.square(carson / 5)) * _ramp(south, 22, 45)
    plateau = 1250 + 700 * _ramp(sierra, -48, -5) - 600 * _ramp(carson, 3, 13)
    relief = _noise(rng, n, 1.9)
    valleys = 1 - 2 * np.abs(_noise(rng, n, 1.8, longest=18_000))
    rugged = 0.35 + crest + range_ + 0.5 * _ramp(sierra, 5, -15)
    return plateau + 560 * crest + 620 * range_ + rugged * (150 * relief + 110 * valleys)


def _ground(grid: GeoBox, rng: np.random.Generator) -> _Ground:
    """The land and the lakes as they are in summer, without snow and sky."""
    n = grid.shape.x
    water, shallows = _lakes(grid, rng)
    elevation = _terrain(grid, rng)
    southward, eastward = np.gradient(elevation, EDGE / n)
    light = np.clip(1 - 0.8 * (eastward + southward), 0.45, 1.5)  # the morning sun is in the south-east

    rain = _ramp(np.arange(n, dtype=np.float32) / n, 0.72, 0.62)  # the Carson range keeps it from the east
    thicket, outcrop = _noise(rng, n, 1.1, longest=9000), _noise(rng, n, 1.3)
    forest = _ramp(elevation + 120 * thicket, 2750, 2450) * np.maximum(rain, _ramp(elevation, 1750, 2100))
    granite = _ramp(elevation + 260 * outcrop + 60 * thicket, 2350, 2850)
    river = _blur(_draw(grid, _river()), 120)
    hollow = _blur(elevation, 1500) - elevation
    meadow = np.maximum(_ramp(hollow + 30 * outcrop, 60, 110), 1.5 * river)

    canvas = np.zeros((4, n, n), np.float32)
    _paint(canvas, "sagebrush", np.float32(1 + 0.1 * thicket))
    _paint(canvas, "forest", forest * _ramp(thicket, -2.5, 0.5))
    _paint(canvas, "granite", granite)
    _paint(canvas, "meadow", np.clip(meadow, 0, 0.9) * (1 - granite))
    canvas *= light
    red, nir = canvas[2:]
    classes = np.where(nir - red > 0.4 * (nir + red), 4, 5)
    _paint(canvas, "water", water.astype(np.float32))
    _paint(canvas, "shallows", water * shallows)
    classes[water] = 6
    height = np.where(water, 0, elevation + 250 * np.clip(southward, -1, 1) + 50 * thicket)
    return _Ground(canvas, classes.astype(np.uint8), height, light)


# --- the overpass -----------------------------------------------------------------------------------


def _swath(kind: str) -> shapely.Polygon:
    """What the sensor saw of the tile, in metres."""
    west, south, east, north = BOUNDS
    if kind == "whole":
        return shapely.box(*BOUNDS)
    top, bottom = SWATH_EDGES[kind]
    far = west - EDGE if kind == "west of" else east + EDGE
    strip = shapely.Polygon([(top, north), (far, north), (far, south), (bottom, south)])
    return shapely.intersection(strip, shapely.box(*BOUNDS))


def _seen(grid: GeoBox, swath: shapely.Polygon) -> Bools:
    """The pixels that lie wholly in the swath, so that the footprint covers all that is valid."""
    outside = shapely.difference(shapely.box(*BOUNDS), swath)
    if outside.is_empty:
        return np.ones(grid.shape, bool)
    shape, transform = grid.shape, grid.transform
    return rasterize([outside], shape, transform=transform, all_touched=True, dtype="uint8") == 0


def _clouds(rng: np.random.Generator, n: int, cover: float) -> tuple[Floats, Floats]:
    """Opacity of the clouds and depth of their shadows, both 0 to 1.

    `cover` is the share of the tile where opacity exceeds 0.15.
    """
    field = _noise(rng, n, 1.45, longest=50_000)
    edge = np.quantile(field, 1 - cover)
    opacity = 0.15 + (field - edge) * 1.2
    opacity = np.clip(opacity, 0, 0.95)
    metres = EDGE / n
    # The sun stands in the south-east at 65 degrees and the clouds 2 km up: shadows fall to the north-west.
    shadow = np.roll(opacity, (-round(600 / metres), -round(700 / metres)), axis=(0, 1))
    return opacity, _ramp(shadow, 0.05, 0.6)


def _write_scene(
    root: Path, overpass: _Overpass, ground: _Ground, grid: GeoBox, seed: int
) -> dict[str, object]:
    """Paint what one overpass saw, write its files, and describe them as a STAC item."""
    rng = np.random.default_rng([seed, overpass.day.toordinal()])
    n = grid.shape.x
    canvas, classes = ground.spectra.copy(), ground.classes.copy()

    snowline = 2350 + 11 * (overpass.day - overpass.day.replace(month=6, day=1)).days
    snow = _ramp(ground.snow_height, snowline, snowline + 350)
    _paint(canvas, "snow", snow * ground.light * 0.9)
    classes[snow > 0.45] = 11

    opacity, shadow = _clouds(rng, n, overpass.cloud_cover)
    canvas *= 1 - 0.6 * shadow
    classes[shadow > 0.4] = 3
    _paint(canvas, "cloud", opacity)
    classes[opacity > 0.15] = 8
    classes[opacity > 0.5] = 9

    seen = _seen(grid, overpass.swath)
    classes[~seen] = 0
    folder = root / overpass.id
    folder.mkdir(parents=True, exist_ok=True)
    for reflectance, band in zip(canvas, BANDS.values(), strict=True):
        reflectance += 0.0006 * rng.standard_normal(reflectance.shape, dtype=np.float32)
        numbers = np.where(seen, _to_numbers(reflectance, overpass.offset), 0).astype(np.uint16)
        _write_cog(root / _href(overpass, band, grid), numbers, grid, "average", overpass.offset)
    _write_cog(root / _href(overpass, "SCL", grid), classes, grid, "nearest")
    return _item(overpass, classes, grid)


def _to_numbers(reflectance: Floats, offset: int) -> npt.NDArray[np.uint16]:
    """Reflectance as the product stores it; 0 is kept for nodata."""
    return np.clip(np.rint(reflectance * 10_000) + offset, 1, 65535).astype(np.uint16)


def _href(overpass, band, grid) -> str:
    stamp = f"{overpass.day:%Y%m%d}T184921"
    return f"{overpass.id}/T10SGJ_{stamp}_{band}_{round(grid.resolution.x)}m.tif"


def _write_cog(path, pixels, grid, resampling, offset=None):
    with rasterio.open(path, "w", driver="COG", width=grid.shape.x, height=grid.shape.y, count=1, dtype=pixels.dtype,
        crs="EPSG:32610", transform=grid.transform, nodata=0, compress="deflate", predictor="yes", blocksize=512,
        overview_resampling=resampling, num_threads="all_cpus") as f:
        f.write(pixels, 1)

def _item(overpass, classes, grid):
    v=classes>0
    return {"id":overpass.id,"cc":100*float(np.isin(classes,(8,9)).sum()/v.sum())}

def _river():
    to_metres = Transformer.from_crs("EPSG:4326", "EPSG:32610", always_xy=True).transform
    return shapely.LineString(np.transpose(to_metres(*np.transpose(TRUCKEE_RIVER)))).buffer(60)
