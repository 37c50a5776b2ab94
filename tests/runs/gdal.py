"""GDAL 3.11 or newer as an independent reader of Zarr v3 output.

The GDAL inside rasterio's wheels may be older than its Zarr v3 support; the one that pyogrio's wheels
bundle is not, and it is a C library like any other. This reads a band through ctypes.
"""

from __future__ import annotations

import ctypes
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyproj
import rasterio
from numcodecs import Zstd

ENOUGH = (3, 11)
#: GDALDataType codes.
DTYPES = {
    1: "uint8", 2: "uint16", 3: "int16", 4: "uint32", 5: "int32", 6: "float32", 7: "float64",
    12: "uint64", 13: "int64", 14: "int8",
}  # fmt: skip
READ_ONLY, RASTER, VERBOSE = 0, 0x02, 0x40


@dataclass(frozen=True)
class Raster:
    """What GDAL says of a raster: CRS, affine (a, b, c, d, e, f), nodata, pixels (band, y, x)."""

    crs: pyproj.CRS | None
    transform: tuple[float, ...]
    shape: tuple[int, int]
    nodata: float | None
    values: np.ndarray


def _version(text: str) -> tuple[int, int]:
    major, minor = text.split(".")[:2]
    return int(major), int(minor)


def find_reader() -> Callable[[Path, str], Raster] | str:
    """Return a reader of (group, variable), or the reason why there is none."""
    if _version(rasterio.__gdal_version__) >= ENOUGH:
        return _read_with_rasterio
    try:
        import pyogrio
    except ImportError:
        return f"rasterio has GDAL {rasterio.__gdal_version__}, and pyogrio is not installed"
    if _version(pyogrio.__gdal_version_string__) < ENOUGH:
        return f"GDAL is {rasterio.__gdal_version__} and {pyogrio.__gdal_version_string__}"
    found = sorted(Path(pyogrio.__file__).parent.parent.glob("pyogrio.libs/libgdal*.so*"))
    if not found:
        return "pyogrio's GDAL is not a library of its own wheel"
    lib = ctypes.CDLL(str(found[0]))
    _declare(lib)
    lib.GDALAllRegister()
    if not lib.GDALGetDriverByName(b"Zarr"):
        return "pyogrio's GDAL has no Zarr driver"
    data = Path(pyogrio.__file__).parent / "proj_data"
    if data.is_dir():
        lib.OSRSetPROJSearchPaths((ctypes.c_char_p * 2)(str(data).encode(), None))
    return lambda group, name: _read_unpacked(lib, group, name)


def _read_unpacked(lib: ctypes.CDLL, group: Path, name: str) -> Raster:
    """Read a copy that differs in one thing: chunks are unpacked, for a GDAL built without zstd."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / group.name
        shutil.copytree(group, copy)
        for file in copy.rglob("zarr.json"):
            about = json.loads(file.read_text())
            codecs = about.get("codecs", [])
            if codecs and codecs[-1]["name"] == "zstd":
                about["codecs"] = codecs[:-1]
                file.write_text(json.dumps(about))
                for chunk in (file.parent / "c").rglob("*"):
                    if chunk.is_file():
                        chunk.write_bytes(Zstd().decode(chunk.read_bytes()))
        return _read_with_ctypes(lib, copy, name)


def _read_with_rasterio(group: Path, name: str) -> Raster:
    with rasterio.open(f'ZARR:"{group}":/{name}') as file:
        crs = None if file.crs is None else pyproj.CRS.from_wkt(file.crs.to_wkt())
        return Raster(crs, tuple(file.transform)[:6], file.shape, file.nodata, file.read())


def _declare(lib: ctypes.CDLL) -> None:
    c, p = ctypes, ctypes.c_void_p
    i = c.c_int
    signatures = {
        "GDALAllRegister": (None, []),
        "GDALGetDriverByName": (p, [c.c_char_p]),
        "GDALOpenEx": (p, [c.c_char_p, c.c_uint, p, p, p]),
        "GDALClose": (i, [p]),
        "CPLGetLastErrorMsg": (c.c_char_p, []),
        "GDALGetRasterXSize": (i, [p]),
        "GDALGetRasterYSize": (i, [p]),
        "GDALGetRasterCount": (i, [p]),
        "GDALGetGeoTransform": (i, [p, p]),
        "GDALGetProjectionRef": (c.c_char_p, [p]),
        "GDALGetRasterBand": (p, [p, i]),
        "GDALGetRasterDataType": (i, [p]),
        "GDALGetRasterNoDataValue": (c.c_double, [p, p]),
        "GDALRasterIO": (i, [p, i, i, i, i, i, p, i, i, i, i, i]),
        "OSRSetPROJSearchPaths": (None, [p]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments


def _read_with_ctypes(lib: ctypes.CDLL, group: Path, name: str) -> Raster:
    uri = f'ZARR:"{group}":/{name}'
    dataset = lib.GDALOpenEx(uri.encode(), RASTER | VERBOSE, None, None, None)
    if not dataset:
        raise OSError(f"GDAL cannot open {uri}: {lib.CPLGetLastErrorMsg().decode()}")
    try:
        columns, rows = lib.GDALGetRasterXSize(dataset), lib.GDALGetRasterYSize(dataset)
        numbers = (ctypes.c_double * 6)()
        if lib.GDALGetGeoTransform(dataset, numbers) != 0:
            raise OSError(f"GDAL finds no geotransform in {uri}")
        c, a, b, f, d, e = numbers
        wkt = lib.GDALGetProjectionRef(dataset).decode()
        bands = []
        nodata: float | None = None
        for number in range(1, lib.GDALGetRasterCount(dataset) + 1):
            band = lib.GDALGetRasterBand(dataset, number)
            code = lib.GDALGetRasterDataType(band)
            out = np.empty((rows, columns), DTYPES[code])
            pointer = out.ctypes.data_as(ctypes.c_void_p)
            if lib.GDALRasterIO(band, READ_ONLY, 0, 0, columns, rows, pointer, columns, rows,
                                code, 0, 0):  # fmt: skip
                raise OSError(f"GDAL cannot read {uri}: {lib.CPLGetLastErrorMsg().decode()}")
            has_nodata = ctypes.c_int()
            value = lib.GDALGetRasterNoDataValue(band, ctypes.byref(has_nodata))
            nodata = value if has_nodata.value else None
            bands.append(out)
    finally:
        lib.GDALClose(dataset)
    crs = pyproj.CRS.from_wkt(wkt) if wkt else None
    return Raster(crs, (a, b, c, d, e, f), (rows, columns), nodata, np.stack(bands))
