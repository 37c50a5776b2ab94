"""Pictures of catalogs, cubes and patches. Matplotlib and folium are imported when asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import geopandas as gpd
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xgeocat.catalog.index import footprint_index
from xgeocat.catalog.schema import COLLECTION, SCENE, START, require_catalog
from xgeocat.patching.index import patch_index

if TYPE_CHECKING:
    import folium
    from matplotlib.axes import Axes


def _axes(ax: Axes | None) -> Axes:
    if ax is not None:
        return ax
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            "Drawing needs matplotlib; install the extra: pip install 'xgeocat[plot]'."
        ) from error
    return plt.subplots(figsize=(6, 6), layout="constrained")[1]


def footprints(ds: xr.Dataset, ax: Axes | None = None) -> Axes:
    """Draw the footprints of a catalog, from the oldest (dark) to the newest (yellow).

    Parameters
    ----------
    ds : Dataset
        A catalog; an empty one gives empty axes that say so.
    ax : matplotlib Axes, optional
        Where to draw.

    Returns
    -------
    matplotlib Axes
        In the CRS of the catalog.

    Raises
    ------
    ImportError
        Without matplotlib.
    """
    table = footprint_table(ds)
    ax = _axes(ax)
    crs = footprint_index(ds).crs
    if len(table):
        import matplotlib as mpl

        ages = np.argsort(np.argsort(footprint_index(ds).start)) / max(len(table) - 1, 1)
        colours = mpl.colormaps["viridis"](ages)
        table.plot(ax=ax, color=colours, alpha=0.12)
        table.boundary.plot(ax=ax, color=colours, linewidth=1.5)
    names, unit = (("longitude", "latitude"), "°") if crs.is_geographic else (("x", "y"), "m")
    ax.set_xlabel(f"{names[0]} [{unit}]")
    ax.set_ylabel(f"{names[1]} [{unit}]")
    ax.set_title(f"{len(table)} scenes, {crs.to_string()}")
    return ax


def explore(ds: xr.Dataset) -> folium.Map:
    """Show the footprints of a catalog on an interactive map.

    Returns
    -------
    folium.Map
        Shown by a notebook as it is.

    Raises
    ------
    ImportError
        Without folium.
    """
    try:
        return footprint_table(require_catalog(ds, ".geocat.explore")).explore(
            tooltip=[SCENE, START, COLLECTION]
        )
    except ImportError as error:
        raise ImportError(
            "The interactive map needs folium; install the extra: pip install 'xgeocat[plot]'."
        ) from error


def footprint_table(ds: xr.Dataset) -> gpd.GeoDataFrame:
    """Footprints as a GeoDataFrame with scene, start time (as text) and collection."""
    ds = require_catalog(ds, ".geocat.plot")
    index = footprint_index(ds)
    return gpd.GeoDataFrame(
        {
            SCENE: ds[SCENE].values.astype(str),
            START: np.datetime_as_string(index.start, unit="s"),
            COLLECTION: ds[COLLECTION].values.astype(str),
        },
        geometry=list(index.geometry),
        crs=index.crs,
    )


def patch_layout(patches: xr.DataArray | xr.Dataset, ax: Axes | None = None) -> Axes:
    """Draw where patches lie in the field they were cut from.

    Parameters
    ----------
    patches : DataArray or Dataset
        Patches over two dimensions.
    ax : matplotlib Axes, optional
        Where to draw; it may already show the field, in its coordinates.

    Returns
    -------
    matplotlib Axes
        In the coordinates of the field.
    """
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    index = patch_index(patches)
    ax = _axes(ax)
    rows, columns = (index.parent.coords[dim].values for dim in index.tiling.dims)
    dy, dx = rows[1] - rows[0], columns[1] - columns[0]
    height, width = (size * step for size, step in zip(index.tiling.size, (dy, dx), strict=True))
    corners = [(columns[c] - dx / 2, rows[r] - dy / 2) for r, c in index.starts]
    boxes = PatchCollection([Rectangle(corner, width, height) for corner in corners])
    boxes.set(facecolor="none", edgecolor="#ffb000", linewidth=0.8, alpha=0.9)
    ax.add_collection(boxes)
    ax.autoscale_view()
    return ax


def true_colour(
    cube: xr.Dataset, bands: Sequence[str] = ("red", "green", "blue"), brightest: float = 0.25
) -> NDArray[np.float32]:
    """Picture of a cube of reflectances.

    Parameters
    ----------
    cube : Dataset
        Bands ``(y, x)`` or ``(1, y, x)``, reflectance in 0..1 with NaN for nodata.
    bands : sequence of str, default: ("red", "green", "blue")
        What becomes red, green and blue.
    brightest : float, default: 0.25
        Reflectance that becomes white.

    Returns
    -------
    numpy.ndarray
        Shape ``(y, x, 4)``, float32 in 0..1; transparent where a band is not known.
    """
    layers = np.stack([np.asarray(cube[band].squeeze(), np.float32) for band in bands], axis=-1)
    known = np.isfinite(layers).all(axis=-1)
    # Gamma 1/1.6 opens up dark forest and water, as the usual quicklooks do.
    picture = np.clip(np.nan_to_num(layers) / brightest, 0, 1) ** np.float32(1 / 1.6)
    return np.dstack([picture, known.astype(np.float32)])
