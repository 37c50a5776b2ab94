"""Items to catalog, catalog to GeoParquet, catalog to lazy cube: against the tools people use.

    python benchmarks/bench_catalog.py [--rows 1000000] [--items 2000] [--repeats 5]

*items*: Sentinel-2 items as dicts, to a catalog; stac-geoparquet and geopandas make a GeoDataFrame
of them. *write*: scenes in memory to GeoParquet, sorted and streamed; geopandas writes the same
columns as they stand. *cube*: 1000 scenes of one tile to a lazy cube, from a catalog;
`odc.stac.load` from the same items as pystac has them.
"""

from __future__ import annotations

from pathlib import Path

import measure

SCENES = 1000
EDGE = 10980
RESOLUTION = 10


def items_of(number: int) -> list[dict]:
    """Items as Earth Search has them: 17 assets, 40 properties; every one at another time."""
    import datetime as dt

    bands = ("coastal", "blue", "green", "red", "rededge1", "rededge2", "rededge3", "nir", "nir08",
             "nir09", "swir16", "swir22", "aot", "wvp", "scl", "visual", "thumbnail")  # fmt: skip
    radiometry = {"nodata": 0, "data_type": "uint16", "spatial_resolution": 10,
                  "scale": 0.0001, "offset": -0.1}  # fmt: skip
    found = []
    for n in range(number):
        when = dt.datetime(2016, 1, 1, 10) + dt.timedelta(days=n)
        name = f"S2A_33TWM_{when:%Y%m%d}_{n}_L2A"
        assets = {
            band: {
                "href": f"https://example.com/33/T/WM/{name}/{band}.tif",
                "type": "image/tiff; application=geotiff; profile=cloud-optimized",
                "title": f"{band} - 10m",
                "roles": ["data", "reflectance"],
                "proj:shape": [EDGE, EDGE],
                "proj:transform": [RESOLUTION, 0, 499980, 0, -RESOLUTION, 5200020],
                "eo:bands": [{"name": band, "common_name": band, "center_wavelength": 0.6}],
                "raster:bands": [radiometry],
            }
            for band in bands
        }
        ring = [[15, 46], [16.4, 46], [16.4, 46.95], [15, 46.95], [15, 46]]
        found.append(
            {
                "type": "Feature", "stac_version": "1.0.0", "id": name,
                "stac_extensions": [
                    "https://stac-extensions.github.io/projection/v1.1.0/schema.json",
                    "https://stac-extensions.github.io/raster/v1.1.0/schema.json",
                ],
                "collection": "sentinel-2-l2a",
                "geometry": {"type": "Polygon", "coordinates": [ring]},
                "bbox": [15, 46, 16.4, 46.95],
                "properties": {
                    "datetime": f"{when:%Y-%m-%dT%H:%M:%S}Z", "proj:epsg": 32633,
                    "created": "2024-01-01T00:00:00Z", "updated": "2024-01-01T00:00:00Z",
                    "eo:cloud_cover": n % 100 / 3, "s2:processing_baseline": "05.09",
                    **{f"s2:property_{i}": i / 3 for i in range(20)},
                    **{f"s2:text_{i}": f"{name}_{i}" for i in range(14)},
                },
                "links": [{"rel": "self", "href": f"https://example.com/{name}", "type": "x/y"}],
                "assets": assets,
            }
        )  # fmt: skip
    return found


# --- items ----------------------------------------------------------------------------------------


def items_xgeocat(folder: str, number: int) -> measure.Job:
    import xgeocat as xgc

    items = items_of(number)
    return lambda out: {"scenes": xgc.from_items(items).sizes["scene"]}


def items_stac_geoparquet(folder: str, number: int) -> measure.Job:
    import geopandas as gpd
    import stac_geoparquet.arrow as sga

    items = items_of(number)

    def job(out: Path) -> dict[str, int]:
        table = sga.parse_stac_items_to_arrow(items).read_all()
        return {"scenes": len(gpd.GeoDataFrame.from_arrow(table))}

    return job


# --- write ----------------------------------------------------------------------------------------


def write_xgeocat(folder: str, rows: int) -> measure.Job:
    from archive_catalog import archive

    import xgeocat as xgc

    ds = archive(rows)

    def job(out: Path) -> dict[str, float]:
        out.mkdir()
        path = Path(xgc.to_geoparquet(ds, out / "catalog.parquet"))
        return {"MiB": path.stat().st_size / 2**20}

    return job


def write_geopandas(folder: str, rows: int) -> measure.Job:
    import geopandas as gpd
    from archive_catalog import BANDS, archive

    ds = archive(rows)
    columns = {
        name: ds[name].values
        for name in ("scene", "collection", "item_json", *ds.data_vars)
        if ds[name].dims == ("scene",)
    }
    columns |= {"start_time": ds.start_time.values, "end_time": ds.end_time.values}
    for name in ("href", "asset_json"):
        columns |= {f"{name}.{band}": ds[name].values[:, i] for i, band in enumerate(BANDS)}
    frame = gpd.GeoDataFrame(columns, geometry=ds.geometry.values, crs=4326)
    del ds

    def job(out: Path) -> dict[str, float]:
        out.mkdir()
        path = out / "catalog.parquet"
        frame.to_parquet(path, write_covering_bbox=True, compression="zstd")
        return {"MiB": path.stat().st_size / 2**20}

    return job


# --- cube -----------------------------------------------------------------------------------------


def grid():
    from affine import Affine
    from odc.geo.geobox import GeoBox

    corner = Affine(RESOLUTION, 0, 520_000, 0, -RESOLUTION, 5_180_000)
    return GeoBox((1024, 1024), corner, "EPSG:32633")


def cube_xgeocat(folder: str) -> measure.Job:
    import xgeocat as xgc

    ds = xgc.from_items(items_of(SCENES))

    def job(out: Path) -> dict[str, int]:
        domain = xgc.GridDomain(ds, grid(), bands=["red", "nir"], groupby="id")
        cube = domain.load(next(domain.slices()))
        return {"steps": cube.sizes["time"], "bands": len(cube.data_vars)}

    return job


def cube_odc_stac(folder: str) -> measure.Job:
    import odc.stac
    import pystac

    items = [pystac.Item.from_dict(item) for item in items_of(SCENES)]

    def job(out: Path) -> dict[str, int]:
        cube = odc.stac.load(
            items, bands=["red", "nir"], geobox=grid(), groupby="id", chunks={"x": 2048, "y": 2048}
        )
        return {"steps": cube.sizes["time"], "bands": len(cube.data_vars)}

    return job


def race(
    what: str, variants: list[str], repeats: int, wanted: float, folder: Path, **given
) -> None:
    found = measure.race(__file__, variants, repeats, folder, **given)
    first, other = variants
    if {k: v for k, v in found[first].facts.items() if k != "MiB"} != {
        k: v for k, v in found[other].facts.items() if k != "MiB"
    }:
        raise SystemExit(f"{found[first].facts} is not {found[other].facts}")
    print(f"\n{what}: {found[first].facts}")
    measure.table(found, other, 0)
    measure.reach("times as fast", found[first].times_faster_than(found[other]), wanted, unit="x")


def main() -> None:
    given = measure.options(__doc__, rows=1_000_000, items=2000)
    with measure.scratch() as folder:
        variants = ["items_xgeocat", "items_stac_geoparquet"]
        race("items", variants, given.repeats, 1, folder, number=given.items)
        variants = ["cube_xgeocat", "cube_odc_stac"]
        race("cube", variants, given.repeats, 1, folder)
        variants = ["write_xgeocat", "write_geopandas"]
        race("write", variants, min(given.repeats, 3), 0.8, folder, rows=given.rows)


if __name__ == "__main__":
    main()
