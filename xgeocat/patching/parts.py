"""Parts: what patches answer for in a box of the field, as columns of numbers, and views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from xgeocat.patching.copying import copy_planes, has_rows
from xgeocat.patching.scratch import empty
from xgeocat.patching.tiling import Array, Box, Ints, Region, Tiling, box_between, interiors

#: A box of the field: its first and its past-the-last cell.
Bounds: TypeAlias = tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Parts:
    """What some patches answer for, in a box of the field or in all of it.

    Parameters
    ----------
    starts : numpy.ndarray
        Shape ``(part, dim)``: first cell of each patch in the field.
    numbers : numpy.ndarray
        Shape ``(part,)``: numbers of the patches; they decide between patches of one start.
    lo, hi : numpy.ndarray
        Shape ``(part, dim)``: first and past-the-last cell of the field that each answers for.
    answers : sequence of numpy.ndarray
        Shape ``(..., *size)`` each: answers, of all of a patch or of a part of it.
    origins : numpy.ndarray
        Shape ``(part, dim)``: cell of the field where each of `answers` begins.
    """

    starts: Ints
    numbers: Ints
    lo: Ints
    hi: Ints
    answers: Sequence[Array]
    origins: Ints

    @classmethod
    def of(
        cls,
        answers: Array,
        starts: Ints,
        numbers: Ints,
        tiling: Tiling,
        crop: Sequence[int],
        rest: int,
    ) -> Self:
        """All that patches answer for.

        Parameters
        ----------
        answers : numpy.ndarray
            Shape ``(patch, ..., *size)``; tiled dimensions of length one may be missing.
        starts : numpy.ndarray
            Shape ``(patch, dim)``: first cell of each patch in the field.
        numbers : numpy.ndarray
            Shape ``(patch,)``.
        tiling : Tiling
            The tiling of the whole field.
        crop : sequence of int
            Margin thrown away on each side of every patch.
        rest : int
            Number of dimensions between the patch dimension and the tiled ones.
        """
        answers = answers.reshape(*answers.shape[: rest + 1], *tiling.size)
        lo, hi = interiors(starts, tiling, crop)
        return cls(starts, numbers, lo, hi, list(answers), starts)

    @classmethod
    def joined(cls, several: Sequence[Self]) -> Self:
        """One table of several, of which there is at least one."""
        if len(several) == 1:
            return several[0]
        return cls(
            np.concatenate([parts.starts for parts in several]),
            np.concatenate([parts.numbers for parts in several]),
            np.concatenate([parts.lo for parts in several]),
            np.concatenate([parts.hi for parts in several]),
            [answer for parts in several for answer in parts.answers],
            np.concatenate([parts.origins for parts in several]),
        )

    def __len__(self) -> int:
        return len(self.numbers)

    def within(self, bounds: Bounds) -> Parts:
        """Those that reach a box, as far as they do; views."""
        lo, hi = np.maximum(self.lo, bounds[0]), np.minimum(self.hi, bounds[1])
        reach = (lo < hi).all(axis=1)
        if reach.all():
            return Parts(self.starts, self.numbers, lo, hi, self.answers, self.origins)
        return Parts(self.starts, self.numbers, lo, hi, self.answers, self.origins)[
            np.flatnonzero(reach)
        ]

    def __getitem__(self, which: Ints) -> Parts:
        return Parts(
            self.starts[which],
            self.numbers[which],
            self.lo[which],
            self.hi[which],
            [self.answers[i] for i in which.tolist()],
            self.origins[which],
        )

    def ordered(self) -> Parts:
        """By where their patches start, row-major, then by number."""
        return self[np.lexsort((self.numbers, *self.starts.T[::-1]))]

    def alone(self) -> Parts:
        """The same parts without the rest of their patches: copies."""
        values = self.values()
        if not values:
            return self
        sizes = np.array([part.size for part in values])
        # One piece of memory, which is used again, rather than many new ones.
        room = empty((int(sizes.sum()),), values[0].dtype)
        firsts = np.cumsum(sizes) - sizes
        copies = [
            room[first : first + part.size].reshape(part.shape)
            for part, first in zip(values, firsts.tolist(), strict=True)
        ]
        if self.lo.shape[1] == 2 and all(map(has_rows, values)):
            copy_planes(copies, values)
        else:
            for copy, part in zip(copies, values, strict=True):
                copy[...] = part
        return Parts(self.starts, self.numbers, self.lo, self.hi, copies, self.lo)

    def values(self) -> list[Array]:
        """Views of the answers of each part, shape ``(..., *part)``."""
        inside = self.inside()
        return [
            answers[self._region(box)] for answers, box in zip(self.answers, inside, strict=True)
        ]

    @staticmethod
    def _region(box: Box) -> Region:
        return (..., *box)

    def inside(self) -> list[Box]:
        """Where each part is in its `answers`."""
        return boxes(self.lo - self.origins, self.hi - self.origins)

    def relative(self, origin: Sequence[int]) -> list[Box]:
        """Where each part is in an array that begins at `origin`."""
        return boxes(self.lo - origin, self.hi - origin)


def boxes(lo: NDArray[np.int64], hi: NDArray[np.int64]) -> list[Box]:
    """Boxes between rows of first and past-the-last cells."""
    return [box_between(a, b) for a, b in zip(lo, hi, strict=True)]
