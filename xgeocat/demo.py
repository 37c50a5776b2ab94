"""The demo: catalog, query, domain, tiled water mask, stitched Zarr, catalog of predictions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from xgeocat import plotting
from xgeocat.catalog.query import query
from xgeocat.catalog.stac import from_items
from xgeocat.datasets import lake_tahoe
from xgeocat.domain.catalog import CatalogDomain
from xgeocat.pipeline import ApplyToChips, GridSampler, Sequential, Stitch
from xgeocat.runs.run import run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Lake Tahoe and its shores: west, south, east, north in degrees.
TAHOE = (-120.25, 38.90, -119.88, 39.28)
UNKNOWN = 255
#: Near-infrared reflectance below which ground may be water.
DARK = 0.15
#: Classes of the Sentinel-2 scene classification that hide the ground.
HIDDEN = (0, 1, 3, 8, 9, 10)


def water(batch: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Water mask by the normalised difference water index (McFeeters 1996), above 0.

    Snow has such an index too, but is bright in the near infrared, where water is dark.

    Parameters
    ----------
    batch : numpy.ndarray
        Shape ``(patch, band, y, x)``: green and nir reflectance, scene classification.

    Returns
    -------
    numpy.ndarray
        Shape ``(patch, y, x)``, uint8: 1 water, 0 land, 255 not known (cloud, shadow, no data).
    """
    green, nir, scl = batch[:, 0], batch[:, 1], batch[:, 2]
    mask = ((green > nir) & (nir < DARK)).astype(np.uint8)
    mask[~np.isfinite(green + nir + scl) | np.isin(scl, HIDDEN)] = UNKNOWN
    return mask


def demo(folder: Path) -> Path:
    """Run the demo.

    Parameters
    ----------
    folder : Path
        Where the archive, the predictions and the figure go.

    Returns
    -------
    Path
        The figure.
    """
    print("1. Making six Sentinel-2 scenes of Lake Tahoe (real COGs and STAC items, no network)")
    items = lake_tahoe(folder / "archive", progress=True)
    catalog = from_items(items)
    scenes, assets = catalog.sizes["scene"], catalog.sizes["asset"]
    print(f"   catalog: a Dataset of {scenes} scenes x {assets} assets, from {items}")

    hits = query(catalog, TAHOE, time=("2024-06-01", "2024-07-31"))
    hits = hits.isel(scene=hits["eo:cloud_cover"] < 40)
    print(f"2. Query by place, dates and cloud cover: {hits.sizes['scene']} scenes\n")

    domain = CatalogDomain(hits, bands=["green", "nir", "scl"], mask_and_scale=True)
    pipe = Sequential(
        [
            GridSampler(256, overlap=64),
            ApplyToChips(water, fill=UNKNOWN, skip_empty=True),
            Stitch(window="hann"),
        ]
    )
    print(f"3. {domain}\n   {pipe}, patches of 256 px that overlap by 64")
    out = run(pipe, domain, folder / "predictions")
    print(f"   one Zarr group per scene, and their catalog, in {folder / 'predictions'}\n")

    print("4. The catalog of predictions is a domain again:")
    masks = _report(out)
    figure = _draw(hits, masks, folder / "water.png")
    print(f"\n5. Figure: {figure}")
    print(f"   Go on from here: xgeocat.open_catalog({str(folder / 'predictions')!r})")
    return figure


def _report(out: xr.Dataset) -> list[xr.DataArray]:
    """Print what was found, and return the mask of each date."""
    masks = []
    domain = CatalogDomain(out)
    print("   date         cloud   seen   water")
    for piece, cloud in zip(domain.slices(), out["eo:cloud_cover"].values, strict=True):
        mask = domain.load(piece)["prediction"].squeeze("time").compute()
        cell = abs(mask.odc.geobox.resolution.x) ** 2 / 1e6
        seen, wet = (mask != UNKNOWN).mean().item(), (mask == 1).sum().item() * cell
        date = np.datetime_as_string(mask["time"].values, unit="D")
        print(f"   {date}  {cloud:5.1f} %  {seen:4.0%}  {wet:6.0f} km2")
        masks.append(mask)
    return masks


def _draw(hits: xr.Dataset, masks: Sequence[xr.DataArray], path: Path) -> Path:
    """Draw input with patch grid, and the mask of each date over its input."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    colours = CatalogDomain(hits, bands=["red", "green", "blue"], mask_and_scale=True)
    pictures = [plotting.true_colour(colours.load(s)) for s in colours.slices()]
    clearest = int(np.argmin(hits["eo:cloud_cover"].values))
    columns = 1 + (len(masks) + 1) // 2
    figure = plt.figure(figsize=(3.6 * columns + 3.2, 7.6), layout="constrained", facecolor="white")
    grid = figure.add_gridspec(2, columns, width_ratios=[2.05, *[1] * (columns - 1)])
    _draw_input(figure.add_subplot(grid[:, 0]), pictures[clearest], masks[clearest])
    for i, (picture, mask) in enumerate(zip(pictures, masks, strict=True)):
        _draw_mask(
            figure.add_subplot(grid[i // (columns - 1), 1 + i % (columns - 1)]), picture, mask
        )
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def _extent(field: xr.DataArray) -> tuple[float, float, float, float]:
    box = field.odc.geobox.boundingbox
    return box.left, box.right, box.bottom, box.top


def _draw_input(ax: Axes, picture: NDArray[np.float32], mask: xr.DataArray) -> None:
    ax.imshow(picture, extent=_extent(mask), interpolation="antialiased")
    plotting.patch_layout(GridSampler(256, overlap=64)(mask), ax)
    date = np.datetime_as_string(mask["time"].values, unit="D")
    ax.set(title=f"Input of {date}, and the patches the model sees (256 px, overlap 64)")
    ax.set(xlabel="easting [m], EPSG:32610", ylabel="northing [m]")
    ax.ticklabel_format(style="plain")
    ax.tick_params(axis="y", rotation=90)


def _draw_mask(ax: Axes, picture: NDArray[np.float32], mask: xr.DataArray) -> None:
    from matplotlib.colors import ListedColormap

    grey = picture[..., :3].mean(axis=-1) * 0.6 + 0.3
    ax.imshow(grey, cmap="gray", vmin=0, vmax=1, extent=_extent(mask))
    for value, colour, alpha in ((UNKNOWN, "#d98880", 0.75), (1, "#0072b2", 1.0)):
        layer = np.ma.masked_where(mask.values != value, np.ones(mask.shape))
        ax.imshow(
            layer,
            cmap=ListedColormap([colour]),
            alpha=alpha,
            extent=_extent(mask),
            interpolation="nearest",
        )
    date = np.datetime_as_string(mask["time"].values, unit="D")
    known = (mask.values != UNKNOWN).mean()
    ax.set(title=f"{date}: water (blue), not seen (red), {known:.0%} seen", xticks=[], yticks=[])
    ax.title.set_fontsize(9)
