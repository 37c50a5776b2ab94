"""Separable blending windows, sampled at pixel centres so that no weight is ever zero.

Formulae: F. J. Harris, "On the use of windows for harmonic analysis with the discrete Fourier
transform", Proc. IEEE 66 (1978), with the sample positions moved to ``(i + 1/2) / n``.
"""

from __future__ import annotations

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
