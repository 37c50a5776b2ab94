"""Acquisition: what makes two scenes the same look at the same ground, processed twice."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import xarray as xr

from xgeocat.catalog import schema

#: What names of Sentinel-2 say: of products since the compact naming of 2016, with their datatake
#: and tile (Planetary Computer leaves out the baseline); of datastrips, what one ground station
#: received of a datatake, from ``S`` on; of granules; of datatakes; and tiles by themselves.
#: ESA, Sentinel-2 Products Specification Document, section "Product Naming".
SENTINEL2 = tuple(
    re.compile(pattern, re.MULTILINE)
    for pattern in (
        r"S2(?P<satellite>[A-D])_MSI(?P<level>L1C|L2A)_(?P<datatake>\d{8}T\d{6})_"
        r"(?:N(?P<version>\d{4})_)?R\d{3}_T(?P<tile>\d{2}[A-Z]{3})_",
        r"S2(?P<satellite>[A-D])_OPER_MSI_(?P<level>L1C|L2A)_DS_.{4}_\d{8}T\d{6}_"
        r"S(?P<strip>\d{8}T\d{6})",
        r"S2(?P<satellite>[A-D])_OPER_MSI_(?P<level>L1C|L2A)_TL_.{4}_\d{8}T\d{6}_A\d{6}_"
        r"T(?P<tile>\d{2}[A-Z]{3})",
        r"^GS2(?P<satellite>[A-D])_(?P<datatake>\d{8}T\d{6})_\d{6}_N\d{2}\.\d{2}$",
        r"^(?:MGRS-)?(?P<tile>\d{1,2}[A-Z]{3})$",
    )
)
#: How names of other archives say which acquisition they are of (groups ``key...``), and which
#: version of it. Landsat: USGS, product identifiers of Collections 1 and 2, and the scene
#: identifiers before them. Sentinel-1: ESA, Sentinel-1 Product Specification, section "Product
#: Naming"; what comes last there is a checksum. MODIS and HLS: LP DAAC, naming conventions.
OTHERS = tuple(
    re.compile(pattern)
    for pattern in (
        r"\b(?P<key1>L[CEMOT]\d{2}_L\d)\w{2}_(?P<key2>\d{6}_\d{8})(?:_(?P<processed>\d{8}))?"
        r"(?:_(?P<version>\d{2})_(?P<tier>T1|T2|RT))?(?P<key3>\w*)",
        r"\b(?P<key1>L[CEMOT]\d\d{6}\d{7})[A-Z]{3}(?P<version>\d{2})\b",
        r"\b(?P<key1>S1[A-D]_\w{2}_\w{4}_\w{4}_\d{8}T\d{6}_\d{8}T\d{6}_\d{6}_[0-9A-F]{6})"
        r"(?:_[0-9A-F]{4}(?![0-9A-Za-z]))?(?P<key2>\w*)",
        r"\b(?P<key1>M[CODY]{2}\w+\.A\d{7}\.h\d{2}v\d{2})\.(?P<version>\d{3})\.(?P<processed>\d{13})",
        r"\b(?P<key1>HLS(?:-VI)?\.[LS]30\.T\w{5}\.\d{7}T\d{6})\.v(?P<version>\d\.\d)",
    )
)
#: Scenes of Landsat in real time are processed again within weeks, to tier 1 where they can be.
TIERS = {"RT": "0", "T2": "1", "T1": "2"}
#: Endings of the properties that hold such names, at whichever provider.
NAMES = ("product_uri", "product_title", "product_name", "product_id", "identifier", "title",
         "datastrip_id", "originalSceneID", "granule_id", "tile_id", "datatake_id", "scene_id",
         "mgrs_tile", "grid:code")  # fmt: skip
BASELINES = ("s2:processing_baseline", "processing:version")
#: When a scene was processed, and when its item was made.
PROCESSED = ("s2:generation_time", "processing:datetime", "s1:processing_datetime")
CREATED, UPDATED = ("created",), ("updated",)
#: What is sensed within a second of each other is the same: processing again moves the sensing time
#: of a granule by a millisecond, and two granules of a datatake are seconds apart.
SAME = np.timedelta64(1, "s")


def acquisitions(ds: xr.Dataset) -> list[str | None]:
    """Say of which acquisition each scene is.

    Scenes of one collection are of one acquisition

    - for Sentinel-2, when satellite, processing level and tile are the same, and their datastrips
      were sensed from the same second on; where no datastrip is named, when the granules themselves
      were sensed within a second. A tile and a datatake do not suffice: where one datastrip of a
      datatake ends and the next begins, a tile has two granules, each with ground of its own;
    - for Landsat, when satellite, level, path, row and date are the same, whatever tier and
      correction;
    - for Sentinel-1, MODIS and HLS, when their names are the same up to version and processing.

    Parameters
    ----------
    ds : Dataset
        A catalog.

    Returns
    -------
    list of (str or None)
        One name per scene, in order, equal for scenes of one acquisition; None where there is
        nothing to go by.
    """
    found: list[str | None] = []
    granules: dict[str, list[tuple[np.datetime64, int]]] = {}
    rows = zip(_said(ds), ds[schema.COLLECTION].values, ds[schema.START].values, strict=True)
    for i, (said, named, start) in enumerate(rows):
        collection = named if isinstance(named, str) else ""
        keys = [said[name] for name in sorted(said) if name.startswith("key")]
        found.append("/".join([collection, *keys]) if keys else None)
        moment, kind = _sensed(said, start)
        if not np.isnat(moment) and {"satellite", "level", "tile"} <= said.keys():
            of = f"S2{said['satellite']}_{said['level']}_T{said['tile'].zfill(5)}"
            granules.setdefault(f"{collection}/{of}/{kind}", []).append((moment, i))
    for of, members in granules.items():
        members.sort()
        first, before = members[0][0], members[0][0]
        for moment, i in members:
            if moment - before > SAME:
                first = moment
            found[i], before = f"{of}/{first}", moment
    return found


def _sensed(said: dict[str, str], start: np.datetime64) -> tuple[np.datetime64, str]:
    """When the datastrip of a granule was sensed, else the granule; NaT where neither is known."""
    if "strip" in said:
        return _compact(said["strip"]), "strip"
    # Many providers give the time of the datatake, which all its granules share.
    known = "datatake" in said and abs(start - _compact(said["datatake"])) > SAME
    return start if known else np.datetime64("NaT", "us"), "granule"


def _compact(text: str) -> np.datetime64:
    day, time = text.split("T")
    return np.datetime64(f"{day[:4]}-{day[4:6]}-{day[6:]}T{time[:2]}:{time[2:4]}:{time[4:]}", "us")


def versions(ds: xr.Dataset) -> list[pd.Series]:
    """Say what tells a newer processing of a scene from an older one.

    Parameters
    ----------
    ds : Dataset
        A catalog.

    Returns
    -------
    list of pandas.Series
        By which to compare scenes of one acquisition, the strongest first, the higher the better,
        null where not known: processing baseline (Landsat: collection and tier), when it was
        processed, when its item was made, when that was updated.
    """
    names, processed = [], []
    for said in _said(ds):
        version = said.get("version")
        names.append(version and version + TIERS.get(said.get("tier", ""), ""))
        processed.append(said.get("processed"))
    told = _texts(ds, BASELINES)
    baselines = [
        texts[0].replace(".", "") if texts else name
        for texts, name in zip(told, names, strict=True)
    ]
    return [
        pd.Series(baselines, dtype=object),
        _moments(ds, PROCESSED),
        pd.Series(processed, dtype=object),
        _moments(ds, CREATED),
        _moments(ds, UPDATED),
    ]


def _moments(ds: xr.Dataset, names: Sequence[str]) -> pd.Series:
    first = [column[0] if column else None for column in _texts(ds, names)]
    return pd.to_datetime(
        pd.Series(first, dtype=object), utc=True, format="ISO8601", errors="coerce"
    )


def _said(ds: xr.Dataset) -> Iterator[dict[str, str]]:
    """What the names of each scene say, under the names of the groups."""
    for scene, texts in zip(ds[schema.SCENE].values, _texts(ds, NAMES), strict=True):
        text = "\n".join([*texts, str(scene)])
        other = next(filter(None, (pattern.search(text) for pattern in OTHERS)), None)
        found = [other] if other else [pattern.search(text) for pattern in SENTINEL2]
        said: dict[str, str] = {}
        for match in reversed([match for match in found if match]):
            said |= {name: value for name, value in match.groupdict().items() if value is not None}
        yield said


def _texts(ds: xr.Dataset, endings: Sequence[str]) -> list[list[str]]:
    """Texts of each scene in the columns whose names end so, in the order of `endings`."""
    columns = [
        ds[name].values
        for ending in endings
        for name in ds.data_vars
        if str(name).endswith(ending) and ds[name].dims == (schema.SCENE,)
    ]
    rows: list[list[str]] = [[] for _ in range(ds.sizes[schema.SCENE])]
    for column in columns:
        for row, value in zip(rows, column, strict=True):
            if isinstance(value, str):
                row.append(value)
    return rows
