"""A catalog of files: GeoTIFFs and COGs, without any STAC."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath

import numpy as np
import pandas as pd
import pyproj
import rasterio
import shapely
import xarray as xr

from xgeocat.catalog import schema
from xgeocat.catalog.aoi import WGS84, Where, outline, reproject
from xgeocat.catalog.headers import Header, read_header
from xgeocat.catalog.interval import Interval, Moment, parse_interval
from xgeocat.catalog.sources import Json
from xgeocat.catalog.stac import bbox_of, from_items, native_fields, time_fields

#: Named groups of a pattern that mean something; all others become properties.
GROUPS = ("date", "start", "end", "band")
#: How dates are written in file names, tried in this order.
DATE_FORMATS = (
    (r"\d{8}T\d{6}", "%Y%m%dT%H%M%S"),
    (r"\d{14}", "%Y%m%d%H%M%S"),
    (r"\d{8}", "%Y%m%d"),
    (r"\d{7}", "%Y%j"),
    (r"\d{6}", "%Y%m"),
)
#: Headers read at once: they wait for the disk or the network, not for a core.
READERS = 16


def from_files(
    files: Iterable[str | os.PathLike[str]],
    *,
    pattern: str | None = None,
    time: Moment | Sequence[Moment] | Mapping[str, Moment] | None = None,
    crs: object | None = None,
    collection: str | None = None,
) -> xr.Dataset:
    """Build a catalog from raster files, by reading their headers in parallel.

    Parameters
    ----------
    files : iterable of path or URL
        GeoTIFFs, COGs, or whatever GDAL opens.
    pattern : str, optional
        Regular expression that matches the whole of each name. Named groups: ``date`` (or
        ``start`` and ``end``) give the time; ``band`` puts files that differ only in it into one
        scene, as its assets; any other group becomes a property.
    time : time, or one per file, or mapping of file to time, optional
        Instead of a group in `pattern`. A bare date means all of that day, UTC.
    crs : CRS, optional
        CRS of the catalog's footprints; by default the one that all files share.
    collection : str, optional
        Collection that the scenes belong to.

    Returns
    -------
    Dataset
        One row per file (or per group of bands), in the order given; assets are named by
        ``band``, or ``"data"``. Footprints are the outlines of the files' grids.

    Raises
    ------
    ValueError
        With the list of offenders: for files that cannot be opened, have no CRS, do not match the
        pattern, or cannot be dated; and for files in several CRSs without `crs`.
    """
    if isinstance(files, (str, os.PathLike)):
        raise TypeError(f"from_files takes a list of files; got one: {files!r}. Give [{files!r}].")
    hrefs = [_absolute(os.fspath(file)) for file in files]
    groups = [_match(pattern, href) for href in hrefs]
    intervals = _intervals(hrefs, groups, time)
    headers = _headers(hrefs)
    target = _common_crs(headers, crs)
    scenes: dict[str, list[int]] = {}
    for i, name in enumerate(_scene_ids(hrefs, groups, pattern)):
        scenes.setdefault(name, []).append(i)
    _require_distinct(scenes, hrefs, groups, intervals)
    items = [
        _item(
            name,
            [(hrefs[i], groups[i], headers[hrefs[i]]) for i in members],
            intervals[members[0]],
            target,
            collection,
        )
        for name, members in scenes.items()
    ]
    return from_items(items, crs=target)


def _absolute(href: str) -> str:
    """A local path from anywhere; URLs and GDAL's virtual paths as they are."""
    return href if "://" in href or href.startswith("/vsi") else os.path.abspath(href)


def _require_distinct(
    scenes: Mapping[str, Sequence[int]],
    hrefs: Sequence[str],
    groups: Sequence[Mapping[str, str]],
    intervals: Sequence[Interval],
) -> None:
    """Refuse scenes in which one file would hide another, or whose files differ in time."""
    for name, members in scenes.items():
        bands = [groups[i].get("band", "data") for i in members]
        _refuse(
            f"share the scene name {name!r} and a band",
            [hrefs[i] for i, b in zip(members, bands, strict=True) if bands.count(b) > 1],
            "Leave doubles out, or give a pattern that tells them apart:",
        )
        _refuse(
            f"of the scene {name!r} have different times",
            [f"{hrefs[i]}: {intervals[i]}" for i in members
             if len({intervals[k] for k in members}) > 1],
            "Give the files of one scene one time:",
        )  # fmt: skip


def _refuse(problem: str, offenders: Sequence[str], remedy: str) -> None:
    if offenders:
        shown = "\n  ".join(offenders[:20])
        more = f"\n  ... and {len(offenders) - 20} more" if len(offenders) > 20 else ""
        raise ValueError(f"{len(offenders)} files {problem}. {remedy}\n  {shown}{more}")


def _match(pattern: str | None, href: str) -> dict[str, str]:
    if pattern is None:
        return {}
    found = re.fullmatch(pattern, href) or re.fullmatch(pattern, PurePosixPath(href).name)
    # What does not match is refused with all others of its kind, in _intervals.
    return (
        {"": "no match"}
        if found is None
        else {k: v for k, v in found.groupdict().items() if v is not None}
    )


def _intervals(
    hrefs: Sequence[str],
    groups: Sequence[Mapping[str, str]],
    time: Moment | Sequence[Moment] | Mapping[str, Moment] | None,
) -> list[Interval]:
    unmatched = [href for href, group in zip(hrefs, groups, strict=True) if "" in group]
    _refuse("do not match the pattern", unmatched, "Mend the pattern, or leave them out:")
    given = _given_times(hrefs, time)
    intervals, wrong = [], []
    for href, group, moment in zip(hrefs, groups, given, strict=True):
        try:
            intervals.append(_interval(group, moment))
        except ValueError as error:
            wrong.append(f"{href}: {error}")
    _refuse(
        "cannot be dated",
        wrong,
        "Give a pattern with a group (?P<date>...), or time=, one per file:",
    )
    return intervals


def _given_times(
    hrefs: Sequence[str], time: Moment | Sequence[Moment] | Mapping[str, Moment] | None
) -> list[Moment]:
    if isinstance(time, Mapping):
        by_file = {_absolute(os.fspath(file)): moment for file, moment in time.items()}
        return [by_file.get(href) for href in hrefs]
    if isinstance(time, (Sequence, np.ndarray, pd.Index, pd.Series)) and not isinstance(time, str):
        if len(time) != len(hrefs):
            raise ValueError(f"time has {len(time)} entries for {len(hrefs)} files; give one each.")
        return list(time)
    return [time] * len(hrefs)


def _interval(group: Mapping[str, str], given: Moment) -> Interval:
    if given is not None:
        return parse_interval(given)
    if "start" in group and "end" in group:
        return parse_interval((_spell(group["start"]), _spell(group["end"])))
    if "date" in group:
        return parse_interval(_spell(group["date"]))
    raise ValueError("its name gives no date, and time= gives none for it")


def _spell(text: str) -> str:
    """Write a date from a file name the way ISO 8601 does, no more precise than it is."""
    import datetime as dt

    iso = {"%Y%m": "%Y-%m", "%Y%m%d": "%Y-%m-%d", "%Y%j": "%Y-%m-%d"}
    for form, code in DATE_FORMATS:
        if re.fullmatch(form, text):
            return dt.datetime.strptime(text, code).strftime(iso.get(code, "%Y-%m-%dT%H:%M:%S"))
    return text


def _headers(hrefs: Sequence[str]) -> dict[str, Header]:
    wrong: list[str] = []

    def read(href: str) -> Header | None:
        try:
            header = read_header(href)
        except rasterio.errors.RasterioIOError as error:
            wrong.append(f"{href}: {error}")
            return None
        if header.crs is None:
            wrong.append(f"{href}: has no CRS")
        return header

    with ThreadPoolExecutor(READERS) as pool:
        found = dict(zip(hrefs, pool.map(read, hrefs), strict=True))
    _refuse("cannot be read as georeferenced rasters", sorted(wrong), "Mend or leave them out:")
    return {href: header for href, header in found.items() if header is not None}


def _common_crs(headers: Mapping[str, Header], crs: object | None) -> pyproj.CRS:
    if crs is not None:
        return pyproj.CRS.from_user_input(crs)
    found = sorted({str(header.crs) for header in headers.values()})
    if len(found) > 1:
        raise ValueError(
            f"The files are in {len(found)} CRSs, {found[:5]}, and a catalog's footprints are in "
            "one. Choose it: from_files(..., crs='EPSG:4326')."
        )
    return pyproj.CRS.from_user_input(found[0]) if found else WGS84


def _scene_ids(
    hrefs: Sequence[str], groups: Sequence[Mapping[str, str]], pattern: str | None
) -> list[str]:
    """Name of the scene of each file: its stem, with its folder where stems are not unique."""
    cut = list(hrefs)
    if pattern is not None and "(?P<band>" in pattern:
        for i, href in enumerate(hrefs):
            folder, slash, name = href.rpartition("/")
            whole = re.fullmatch(pattern, href)
            found = whole or re.fullmatch(pattern, name)
            if found is not None:
                cut[i] = ("" if whole else folder + slash) + _without_band(found)
    # A file that is named by its band alone is told by its folder.
    stems = [
        PurePosixPath(c).name.rsplit(".", 1)[0]
        if c.rsplit("/", 1)[-1].rsplit(".", 1)[0]
        else PurePosixPath(h).parent.name
        for c, h in zip(cut, hrefs, strict=True)
    ]
    owners: dict[str, set[str]] = {}
    for stem, path in zip(stems, cut, strict=True):
        owners.setdefault(stem, set()).add(path)
    if all(len(paths) == 1 for paths in owners.values()):
        return stems
    return [f"{PurePosixPath(p).parent.name}_{s}" for p, s in zip(cut, stems, strict=True)]


def _without_band(found: re.Match[str]) -> str:
    start, end = found.span("band")
    before, after = found.string[:start], found.string[end:]
    folder, slash, name = before.rpartition("/")
    name = name.rstrip("_-.")
    return folder + slash + name + (after if name else after.lstrip("_-"))


def _item(
    name: str,
    members: Sequence[tuple[str, Mapping[str, str], Header]],
    interval: Interval,
    crs: pyproj.CRS,
    collection: str | None,
) -> Json:
    """Describe the files of one scene as a STAC item."""
    outlines = [
        reproject(Where(h.footprint, pyproj.CRS.from_user_input(h.crs)), crs) for _, _, h in members
    ]
    footprint = outlines[0] if len(outlines) == 1 else shapely.union_all(outlines)
    geometry = outline(Where(footprint, crs))
    named = {k: v for k, v in members[0][1].items() if k not in (*GROUPS, *schema.RESERVED)}
    item: Json = {
        "type": "Feature",
        "stac_version": "1.1.0",
        "id": name,
        "geometry": json.loads(shapely.to_geojson(geometry)),
        "bbox": bbox_of(geometry),
        "properties": {**time_fields(interval), **native_fields(footprint, crs), **named},
        "links": [],
        "assets": {group.get("band", "data"): _asset(href, h) for href, group, h in members},
    }
    return item if collection is None else {**item, "collection": collection}


def _asset(href: str, header: Header) -> Json:
    asset: Json = {
        "href": href,
        "type": "image/tiff; application=geotiff",
        "roles": ["data"],
        "proj:code": header.crs,
        "proj:shape": list(header.shape),
        "proj:transform": list(header.transform),
        "bands": [_band(header, i) for i in range(len(header.dtypes))],
    }
    return asset


def _band(header: Header, i: int) -> Json:
    band: Json = {"data_type": header.dtypes[i]}
    nodata, scaling = header.nodata[i], (header.scales[i], header.offsets[i])
    if nodata is not None:
        # JSON has no NaN; STAC writes it as text.
        band["nodata"] = nodata if np.isfinite(nodata) else str(nodata)
    if scaling != (1, 0):
        band |= {"raster:scale": scaling[0], "raster:offset": scaling[1]}
    return band
