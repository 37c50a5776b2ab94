"""Separable blending windows, sampled at pixel centres so that no weight is ever zero.

Formulae: F. J. Harris, "On the use of windows for harmonic analysis with the discrete Fourier
transform", Proc. IEEE 66 (1978), with the sample positions moved to ``(i + 1/2) / n``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

#: A window: its name, or its name and its one parameter.
Window: TypeAlias = str | tuple[str, float]

WINDOWS = ("boxcar", "hann", "tukey", "gaussian")


def weights(window: Window, size: int) -> NDArray[np.float64]:
    """Weights of one window along one dimension.

    Parameters
    ----------
    window : str or (str, float)
        ``"boxcar"``, ``"hann"``, ``"tukey"`` or ``("tukey", taper)`` with the tapered fraction
        in 0..1 (default 0.5), ``"gaussian"`` or ``("gaussian", sigma)`` with the standard
        deviation as a fraction of the size (default 1/6).
    size : int
        Number of pixels.

    Returns
    -------
    numpy.ndarray
        Shape ``(size,)``, float64, every value in ``(0, 1]``.

    Raises
    ------
    ValueError
        For an unknown window or a parameter out of range.
    """
    name, parameter = (window, None) if isinstance(window, str) else window
    at = (np.arange(size) + 0.5) / size
    if name == "boxcar" and parameter is None:
        return np.ones(size)
    if name == "hann" and parameter is None:
        return np.sin(np.pi * at) ** 2
    if name == "tukey":
        taper = 0.5 if parameter is None else parameter
        if not 0 <= taper <= 1:
            raise ValueError(f"tukey taper={taper!r}; the tapered fraction must be in 0..1.")
        nearest_edge = np.minimum(at, 1 - at)
        ramp = np.minimum(nearest_edge / (taper / 2), 1) if taper else np.ones(size)
        return np.sin(np.pi / 2 * ramp) ** 2
    if name == "gaussian":
        sigma = 1 / 6 if parameter is None else parameter
        # Below 1/40 the weights at the edges would underflow to zero once multiplied over dims.
        if not sigma >= 1 / 40:
            raise ValueError(
                f"gaussian sigma={sigma!r}; it is a fraction of the patch size, at least 0.025."
            )
        return np.exp(-0.5 * ((at - 0.5) / sigma) ** 2)
    raise ValueError(
        f"window={window!r} is unknown; use one of {WINDOWS}, or ('tukey', taper) or "
        "('gaussian', sigma)."
    )


@dataclass(frozen=True, slots=True, eq=False)
class Shares:
    """Weights of patches over an interval of one dimension.

    Parameters
    ----------
    starts : numpy.ndarray
        Shape ``(window,)``: where patches start, ascending, each once.
    weights : numpy.ndarray
        Shape ``(window, cells)``, float64: weights of the part of each that lies in the interval,
        from the first cell of that part on.
    lengths : sequence of int
        How many of `cells` there are of each.
    total : numpy.ndarray
        Shape of the interval, float64: sum of the weights at each cell, before they were divided.
    """

    starts: NDArray[np.int64]
    weights: NDArray[np.float64]
    lengths: Sequence[int]
    total: NDArray[np.float64]

    def of(self, start: int) -> NDArray[np.float64]:
        """Weights of the patches that start there."""
        at = int(np.searchsorted(self.starts, start))
        return self.weights[at, : self.lengths[at]]


@lru_cache(maxsize=256)
def shares(
    window: Window,
    size: int,
    parts: tuple[tuple[int, int, int], ...],
    interval: tuple[int, int],
    relative: bool,
) -> Shares:
    """Weigh patches over an interval of one dimension.

    Parameters
    ----------
    window : str or (str, float)
        Blending window.
    size : int
        Length of a patch.
    parts : tuple of (int, int, int)
        Where patches start, ascending, and the first and past-the-last cell of their parts.
    interval : (int, int)
        First and past-the-last cell.
    relative : bool
        Whether to divide the weights by their sum at each cell.
    """
    whole = weights(window, size)
    first, last = interval
    total = np.zeros(last - first)
    lengths = [hi - lo for _, lo, hi in parts]
    of_parts = np.zeros((len(parts), max(lengths)))
    for own, (start, lo, hi) in zip(of_parts, parts, strict=True):
        own[: hi - lo] = whole[lo - start : hi - start]
        total[lo - first : hi - first] += own[: hi - lo]
    if relative:
        for own, (_, lo, hi) in zip(of_parts, parts, strict=True):
            own[: hi - lo] /= total[lo - first : hi - first]
    # They are shared by all who ask for the same.
    of_parts.flags.writeable = total.flags.writeable = False
    return Shares(np.array([start for start, _, _ in parts]), of_parts, lengths, total)
