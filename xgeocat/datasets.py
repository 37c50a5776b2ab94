"""A small Sentinel-2 archive of Lake Tahoe, made on the spot: for the demo, the docs and the tests.

The files are laid out, named, scaled and described as Earth Search v1 does it, on the real grid of
MGRS tile 10SGJ. The picture is painted: relief and clouds are 1/f noise, the lakes are drawn by
hand, and each ground cover has one spectrum. Nothing is downloaded; a seed always makes the same.
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
from shapely.geometry import mapping

__all__ = ["DATES", "lake_tahoe"]

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
Classes = npt.NDArray[np.uint8]  # of the scene classification (SCL)
Numbers = npt.NDArray[np.uint16]
Edges = tuple[float, float, float, float]

DATES = ("2024-06-02", "2024-06-07", "2024-06-22", "2024-07-07", "2024-07-12", "2024-07-27")
CRS = "EPSG:32610"
BOUNDS = WEST, SOUTH, EAST, NORTH = (699_960, 4_290_240, 809_760, 4_400_040)  # of MGRS tile 10SGJ
EDGE = EAST - WEST

# Eastings of the swath: its west and east edge at the tile's top, its east and west edge at the
# bottom. A cut edge runs along the descending orbit, 13 degrees off north.
WHOLE: Edges = (WEST, EAST, EAST, WEST)
CUT_EAST: Edges = (WEST, 812_000, 786_000, WEST)
CUT_WEST: Edges = (719_000, EAST, EAST, 693_000)
# What each overpass meets, by its place in the sequence: cloud cover, swath, processing baseline.
# Since baseline 04.00 numbers are stored with 1000 added; one older scene keeps the archive mixed.
SKIES = (
    (0.12, WHOLE, "05.10"), (0.27, CUT_EAST, "05.10"), (0.06, WHOLE, "03.01"),
    (0.45, WHOLE, "05.10"), (0.18, CUT_WEST, "05.10"), (0.01, WHOLE, "05.10"),
)  # fmt: skip

COLLECTION = "https://earth-search.aws.element84.com/v1/collections/sentinel-2-l2a"
EXTENSION = "https://stac-extensions.github.io/{}/v1.1.0/schema.json"
BANDS = {"blue": "B02", "green": "B03", "red": "B04", "nir": "B08"}
# Surface reflectance in these bands. But for snow, only water has more green than near infrared.
SPECTRA = {
    "sagebrush": (0.082, 0.108, 0.138, 0.215),
    "forest": (0.024, 0.040, 0.031, 0.205),
    "meadow": (0.036, 0.072, 0.052, 0.330),
    "granite": (0.170, 0.195, 0.215, 0.265),
    "snow": (0.700, 0.690, 0.670, 0.595),
    "water": (0.044, 0.026, 0.010, 0.004),
    "shallows": (0.072, 0.098, 0.055, 0.014),
    "cloud": (0.640, 0.625, 0.620, 0.620),
}

# The shore of Lake Tahoe, clockwise from Tahoe City, in 1/1000 degree from 120 W, 39 N.
TAHOE = (
    (-143, 168), (-96, 188), (-80, 226), (-52, 239), (-25, 236), (-5, 222), (15, 247), (45, 246),
    (71, 220), (69, 163), (47, 98), (58, 87), (51, 45), (51, 9), (42, -1), (50, -40), (28, -55),
    (-30, -63), (-66, -56), (-80, -38), (-110, -52), (-113, -44), (-85, -29), (-93, 0), (-121, 37),
    (-111, 61), (-126, 72), (-158, 87), (-160, 110), (-152, 138),
)  # fmt: skip
# Donner, Fallen Leaf, Stampede, Washoe and French Meadows as ellipses: centre (as above), length
# and width in metres, degrees turned from east towards north.
SMALL_LAKES = (
    ((-265, 323), 4300, 1200, 0), ((-62, -100), 4600, 1300, 110), ((-125, 475), 5200, 2200, 20),
    ((200, 262), 5600, 2900, 100), ((-435, 118), 4200, 1100, 45),
)  # fmt: skip
CARSON_VALLEY = ((225, -85), 8000, 19_000, 0)


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
    classification) and an item of one STAC ItemCollection. Dates differ in clouds and snow, and two
    meet an edge of the swath. The third is stored as before processing baseline 04.00, without the
    radiometric offset, so that a mixed archive can be tried.

    Parameters
    ----------
    path : path-like
        Folder to write to; made if missing. Files of the same name are replaced.
    resolution : int, optional
        Pixel edge in metres, from 10 to 1200; must divide the tile's edge of 109,800 m. Each shows
        the same landscape; memory and disk grow with the pixels (at 60 m: 0.6 GB and 60 MB).
    dates : sequence of str, optional
        Day of each overpass, as ``YYYY-MM-DD``.
    seed : int, optional
        Decides the landscape, the clouds and the noise.
    progress : bool, optional
        Show a progress bar.

    Returns
    -------
    Path
        The ItemCollection, ``items.json``. Its hrefs are relative to it.

    Raises
    ------
    ValueError
        If the resolution does not divide the tile, or a date is repeated.
    """
    if not 10 <= resolution <= 1200 or resolution % 1 or EDGE % resolution:
        raise ValueError(
            f"resolution must be a whole number of metres, from 10 to 1200, that divides the edge "
            f"of the tile, {EDGE} m: 10, 20, 60, 100, 200, 300, 600, ...; got {resolution!r}"
        )
    if len(set(dates)) < len(dates):
        raise ValueError(f"dates must differ, one scene for each; got {list(dates)}")
    passes: Iterable[_Overpass] = [
        _Overpass(date.fromisoformat(day), "AB"[place % 2], *SKIES[place % len(SKIES)])
        for place, day in enumerate(dates)
    ]
    if progress:
        from tqdm import tqdm

        passes = tqdm(passes, desc="Lake Tahoe", unit="scene")
    grid = GeoBox.from_bbox(BOUNDS, CRS, resolution=resolution, tight=True)
    ground = _ground(grid, np.random.default_rng(seed))
    root = Path(path)
    root.mkdir(parents=True, exist_ok=True)
    items = [_write_scene(root, overpass, ground, seed) for overpass in passes]
    collection = {"type": "FeatureCollection", "features": items}
    (root / "items.json").write_text(json.dumps(collection, indent=1), encoding="utf-8")
    return root / "items.json"


@dataclass(frozen=True, slots=True)
class _Overpass:
    """One visit of a satellite, and what it met."""

    day: date
    satellite: str
    cloud_cover: float
    swath: Edges
    baseline: str

    @property
    def id(self) -> str:
        return f"S2{self.satellite}_10SGJ_{self.day:%Y%m%d}_0_L2A"

    @property
    def shift(self) -> int:
        """What the processing baseline adds to the numbers it stores."""
        return 1000 if self.baseline >= "04.00" else 0

    def href(self, band: str, grid: GeoBox) -> str:
        """The file of a band, from the archive's root."""
        stem = f"T10SGJ_{self.day:%Y%m%d}T184921_{band}"
        return f"{self.id}/{stem}_{round(grid.resolution.x)}m.tif"


@dataclass(frozen=True, slots=True)
class _Ground:
    """What stays from one overpass to the next."""

    grid: GeoBox
    reflectance: Floats  # (band, y, x), without snow
    classes: Classes  # 4 vegetation, 5 bare, 6 water
    snow_height: Floats  # elevation as snow feels it: higher on slopes that face north
    light: Floats  # of the sun on the relief, around 1


def _noise(rng: np.random.Generator, n: int, slope: float, longest: float) -> Floats:
    """1/f**slope noise of unit variance on n x n pixels, with waves up to `longest` metres.

    The spectrum is drawn down to 240 m and then cut to what n pixels can carry, so that every
    resolution shows the same landscape. It wraps around the tile's edges.
    """
    waves = int(EDGE / 240)
    frequency = np.hypot(np.fft.fftfreq(2 * waves, 0.5 / waves)[:, None], np.arange(waves))
    amplitude = np.where(frequency * longest < EDGE, 0, np.maximum(frequency, 1) ** -slope)
    amplitude *= np.exp(-np.square(frequency * 520 / EDGE))  # soft in detail: files stay small
    real, imaginary = amplitude * rng.standard_normal((2, *amplitude.shape))
    drawn = (real + 1j * imaginary) / np.sqrt(2 * np.sum(real**2 + imaginary**2))
    keep = min(n // 2, waves)
    spectrum = np.zeros((n, n // 2 + 1), np.complex64)
    spectrum[:keep, :keep] = drawn[:keep, :keep]
    spectrum[-keep:, :keep] = drawn[-keep:, :keep]
    return np.fft.irfft2(spectrum, (n, n), norm="forward").astype(np.float32)


def _blur(field: Floats, metres: float) -> Floats:
    """A Gaussian blur with this standard deviation."""
    n = len(field)
    squared = np.square(np.fft.fftfreq(n)[:, None]) + np.square(np.fft.rfftfreq(n))
    smooth = np.exp(-2 * squared * (np.pi * metres * n / EDGE) ** 2).astype(np.float32)
    return np.fft.irfft2(np.fft.rfft2(field) * smooth, (n, n)).astype(np.float32)


def _ramp(field: Floats, start: float, stop: float) -> Floats:
    """A smooth step from 0 at `start` to 1 at `stop`."""
    t = np.clip((field - np.float32(start)) / np.float32(stop - start), 0, 1)
    return t * t * (3 - 2 * t)


def _paint(canvas: Floats, cover: str, fraction: Floats) -> None:
    """Lay a ground cover over what is on the (band, y, x) canvas."""
    for band, reflectance in zip(canvas, SPECTRA[cover], strict=True):
        band += fraction * (np.float32(reflectance) - band)


def _metres(*places: tuple[int, int]) -> npt.NDArray[np.float64]:
    """Places in 1/1000 degree from 120 W, 39 N, as eastings and northings."""
    east, north = np.transpose(places) / 1000
    to_metres = Transformer.from_crs("EPSG:4326", CRS, always_xy=True).transform
    return np.column_stack(to_metres(east - 120, north + 39))


def _ellipse(centre: tuple[int, int], length: float, width: float, turn: float) -> shapely.Polygon:
    disc = shapely.Point(_metres(centre)[0]).buffer(0.5)
    return affinity.rotate(affinity.scale(disc, length, width), turn)


def _draw(grid: GeoBox, *shapes: shapely.Polygon, blur: float) -> Floats:
    """1 inside the shapes, 0 outside, blurred by so many metres."""
    drawn: Floats = rasterize(shapes, grid.shape, transform=grid.transform, dtype="float32")
    return _blur(drawn, blur)


def _ground(grid: GeoBox, rng: np.random.Generator) -> _Ground:
    """The land and the lakes in summer, without snow and sky."""
    n = grid.shape.x
    water, shallows = _lakes(grid, rng)
    elevation, rain = _terrain(n, rng)
    southward: Floats = np.gradient(elevation, EDGE / n, axis=0)
    eastward: Floats = np.gradient(elevation, EDGE / n, axis=1)
    light = np.clip(1 - 1.1 * (eastward + southward), 0.45, 1.6)  # the sun is in the south-east

    thicket, outcrop = _noise(rng, n, 1.5, 12_000), _noise(rng, n, 1.6, EDGE / 3)
    forest = rain + 0.75 * (1 - rain) * _ramp(elevation + 60 * thicket, 1650, 1950)
    forest *= _ramp(elevation + 120 * thicket, 2800, 2450)  # the tree line
    forest *= 0.5 + 0.5 * _ramp(thicket + 0.6 * outcrop, -2, 0.3)
    granite = rain * _ramp(elevation + 220 * outcrop + 60 * thicket, 2300, 2850)
    hollows = _ramp(_blur(elevation, 1000) - elevation + 12 * thicket, 55, 90)
    fields = _draw(grid, _ellipse(*CARSON_VALLEY), blur=900) * _ramp(thicket, -1, 1)

    canvas = np.zeros((4, n, n), np.float32)
    _paint(canvas, "sagebrush", 1 + 0.08 * outcrop + 0.04 * thicket)
    _paint(canvas, "forest", forest)
    _paint(canvas, "granite", granite)
    _paint(canvas, "meadow", np.maximum(0.6 * rain * hollows, fields) * (1 - granite))
    canvas *= light
    red, nir = canvas[2:]
    classes = np.where(nir - red > 0.4 * (nir + red), 4, 5).astype(np.uint8)
    _paint(canvas, "water", water.astype(np.float32))
    _paint(canvas, "shallows", water * shallows)
    classes[water] = 6
    snow_height = elevation + 250 * np.clip(southward, -1, 1) + 40 * thicket
    snow_height[water] = 0
    return _Ground(grid, canvas, classes, snow_height, light)


def _terrain(n: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Elevation in metres, and the share of the Pacific rain that gets this far.

    From west to east: foothills, the Sierra crest, the Tahoe basin, the Carson range, the desert.
    """
    east = np.linspace(0, EDGE / 1000, n, dtype=np.float32)  # km
    south = east[:, None]
    wander = 2.5 * _noise(rng, n, 2.2, EDGE / 3)
    sierra = east + wander + 0.36 * (88 - south) - 48  # km east of the crest, which runs north-west
    carson = east - 0.6 * wander - 69
    crests = np.exp(-np.square(sierra / np.where(sierra < 0, np.float32(14), np.float32(6))))
    crests += 1.1 * np.exp(-np.square(carson / 5)) * _ramp(south, 20, 45)
    desert = np.exp(-np.square((east + 1.5 * wander - 96) / 6))
    relief = _noise(rng, n, 2.1, EDGE / 3)
    valleys = 1 - 2 * np.abs(_noise(rng, n, 2.1, 20_000))
    rugged = 0.25 + crests + 0.9 * desert + 0.9 * _ramp(sierra, 8, -12)
    plateau = 1150 + 800 * _ramp(sierra, -50, -5) - 600 * _ramp(carson, 3, 13)
    elevation = plateau + 560 * crests + 350 * desert + rugged * (130 * relief + 170 * valleys)
    return elevation, _ramp(carson + 0.8 * relief, 14, 3)


def _lakes(grid: GeoBox, rng: np.random.Generator) -> tuple[Bools, Floats]:
    """Where water is, and how shallow it is there: 1 at the shore, 0 in the deep."""
    n = grid.shape.x
    tahoe = shapely.Polygon(_metres(*TAHOE))
    # Noise on the blurred outline, where it is neither land nor water, makes coves and points.
    lake = _draw(grid, tahoe, *(_ellipse(*small) for small in SMALL_LAKES), blur=220)
    water = lake + lake * (1 - lake) * _noise(rng, n, 1.2, 5000) > 0.5
    depth = _blur(water.astype(np.float32), 700) + 0.06 * _noise(rng, n, 1.5, 6000)
    return water, np.square(_ramp(depth, 0.97, 0.45))


def _write_scene(root: Path, overpass: _Overpass, ground: _Ground, seed: int) -> dict[str, object]:
    """Paint what one overpass saw, write its files, and describe them as a STAC item."""
    grid, n = ground.grid, ground.grid.shape.x
    rng = np.random.default_rng([seed, overpass.day.toordinal()])
    canvas, classes = ground.reflectance.copy(), ground.classes.copy()
    snow_line = 2400 + 9 * (overpass.day - overpass.day.replace(month=6, day=1)).days
    snow = _ramp(ground.snow_height, snow_line, snow_line + 400)
    _paint(canvas, "snow", snow * ground.light * np.float32(0.9))
    classes[snow > 0.45] = 11

    cloud, shadow = _clouds(rng, n, overpass.cloud_cover)
    canvas *= 1 - 0.6 * shadow
    classes[shadow > 0.4] = 3
    _paint(canvas, "cloud", cloud)
    classes[cloud > 0.15] = 8
    classes[cloud > 0.5] = 9
    classes[~_seen(n, overpass.swath)] = 0

    (root / overpass.id).mkdir(exist_ok=True)
    for reflectance, band in zip(canvas, BANDS.values(), strict=True):
        reflectance += 0.0004 * rng.standard_normal(reflectance.shape, dtype=np.float32)
        numbers = np.where(classes > 0, _numbers(reflectance, overpass.shift), np.uint16(0))
        _write_cog(root / overpass.href(band, grid), numbers, grid, overviews="average")
    _write_cog(root / overpass.href("SCL", grid), classes, grid, overviews="nearest")
    return _item(overpass, classes, grid)


def _clouds(rng: np.random.Generator, n: int, cover: float) -> tuple[Floats, Floats]:
    """Opacity of the clouds (over 0.15 on a share `cover` of the tile) and of their shadows."""
    field = _noise(rng, n, 1.8, 60_000)
    opacity = np.clip(0.15 + 0.9 * (field - np.quantile(field, 1 - cover)), 0, 0.97)
    # The sun stands 65 degrees high in the south-east, clouds 2 km: shadows fall to the north-west.
    north, west = (round(metres * n / EDGE) for metres in (600, 700))
    return opacity, _ramp(np.roll(opacity, (-north, -west), axis=(0, 1)), 0.05, 0.6)


def _seen(n: int, swath: Edges) -> Bools:
    """The pixels that lie wholly in the swath, so that its footprint covers all that is valid."""
    west_top, east_top, east_bottom, west_bottom = swath
    west = np.linspace(west_top, west_bottom, n + 1)[:, None]
    east = np.linspace(east_top, east_bottom, n + 1)[:, None]
    x = np.linspace(WEST, EAST, n + 1)
    whole_west = x[:-1] >= np.maximum(west[:-1], west[1:])
    whole_east = x[1:] <= np.minimum(east[:-1], east[1:])
    return whole_west & whole_east


def _numbers(reflectance: Floats, shift: int) -> Numbers:
    """Reflectance as the product stores it: in 1/10000, shifted, 0 kept for nodata.

    Rounded to 0.002, finer than Sentinel-2 is accurate: noise below that would double the files.
    """
    return np.clip(20 * np.rint(reflectance * 500) + shift, 1, 65_535).astype(np.uint16)


def _write_cog(path: Path, pixels: Classes | Numbers, grid: GeoBox, *, overviews: str) -> None:
    """Write a band as a cloud-optimized GeoTIFF; `overviews` says how they are resampled."""
    height, width = grid.shape
    levels = max(1, (width // 1000).bit_length())  # down to about 1000 pixels
    layout = {"driver": "COG", "blocksize": 512, "overview_count": levels}
    layout |= {"compress": "deflate", "level": 3, "predictor": "yes", "num_threads": "all_cpus"}
    layout |= {"count": 1, "dtype": pixels.dtype, "nodata": 0, "height": height, "width": width}
    georeference = {"crs": CRS, "transform": grid.transform}
    with rasterio.open(path, "w", overview_resampling=overviews, **layout, **georeference) as file:
        file.write(pixels, 1)


def _item(overpass: _Overpass, classes: Classes, grid: GeoBox) -> dict[str, object]:
    """The scene as a STAC item, in the words of Earth Search v1."""
    seen = np.count_nonzero(classes)
    cloudy = np.count_nonzero((classes == 8) | (classes == 9))
    footprint = _footprint(overpass.swath)
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": [
            EXTENSION.format(name) for name in ("eo", "grid", "projection", "raster")
        ],
        "id": overpass.id,
        "collection": "sentinel-2-l2a",
        "geometry": mapping(footprint),
        "bbox": list(footprint.bounds),
        "properties": {
            "description": "Painted by xgeocat.datasets.lake_tahoe, not measured.",
            "datetime": f"{overpass.day}T18:49:21Z",
            "platform": f"sentinel-2{overpass.satellite.lower()}",
            "constellation": "sentinel-2",
            "instruments": ["msi"],
            "eo:cloud_cover": round(100 * cloudy / seen, 4),
            "s2:nodata_pixel_percentage": round(100 - 100 * seen / classes.size, 4),
            "s2:processing_baseline": overpass.baseline,
            "grid:code": "MGRS-10SGJ",
            "proj:epsg": 32610,
        },
        "links": [{"rel": "collection", "type": "application/json", "href": COLLECTION}],
        "assets": {name: _asset(overpass, name, grid) for name in (*BANDS, "scl")},
    }


def _footprint(swath: Edges) -> shapely.Polygon:
    """What of the tile lies in the swath, in degrees."""
    strip = shapely.Polygon(zip(swath, (NORTH, NORTH, SOUTH, SOUTH), strict=True))
    # A straight edge on the map is a curve in degrees: a point every 5 km keeps it within a metre.
    outline = shapely.segmentize(strip.intersection(shapely.box(*BOUNDS)), 5000)
    to_degrees = Transformer.from_crs(CRS, "EPSG:4326", always_xy=True).transform
    x, y = to_degrees(*shapely.get_coordinates(outline).T)
    return shapely.Polygon(np.round([x, y], 7).T[::-1])  # GeoJSON rings run counter-clockwise


def _asset(overpass: _Overpass, name: str, grid: GeoBox) -> dict[str, object]:
    """A file of the scene: where it is, its grid, and how its numbers become reflectance."""
    asset: dict[str, object] = {
        "href": overpass.href(BANDS.get(name, "SCL"), grid),
        "type": "image/tiff; application=geotiff; profile=cloud-optimized",
        "roles": ["data"],
        "proj:shape": list(grid.shape),
        "proj:transform": list(grid.transform)[:6],
    }
    band = {"nodata": 0, "data_type": "uint8", "spatial_resolution": round(grid.resolution.x)}
    if name in BANDS:
        band |= {"data_type": "uint16", "scale": 0.0001, "offset": 0 - overpass.shift / 10_000}
        asset["eo:bands"] = [{"name": name, "common_name": name}]
    return asset | {"raster:bands": [band]}
