"""Reducers that choose among the answers: extremes, first and last, votes, medians."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xgeocat.patching.averages import Mean
from xgeocat.patching.pieces import Piece, Reducer, State
from xgeocat.patching.tiling import Array


@dataclass(frozen=True, slots=True)
class Extreme(Reducer):
    """Largest or smallest answer."""

    pick: np.ufunc

    def init(self, shape: tuple[int, ...], dtype: np.dtype, depth: int) -> State:
        largest = self.pick is np.maximum
        if dtype.kind == "f":
            worst: object = -np.inf if largest else np.inf
        elif dtype.kind in "iu":
            worst = np.iinfo(dtype).min if largest else np.iinfo(dtype).max
        else:
            worst = not largest
        return (np.full(shape, worst, dtype),)

    def fold(self, state: State, piece: Piece) -> None:
        valid = True if piece.valid is None else piece.valid
        mine = state[0][piece.region]
        self.pick(mine, piece.values, out=mine, where=valid)

    def finish(self, state: State, weight: Array) -> Array:
        return state[0]


class First(Reducer):
    """The answer of the patch that starts first in the field, row-major."""

    def init(self, shape: tuple[int, ...], dtype: np.dtype, depth: int) -> State:
        return np.zeros(shape, dtype), np.zeros(shape, np.bool_)

    def fold(self, state: State, piece: Piece) -> None:
        values, seen = (array[piece.region] for array in state)
        np.copyto(values, piece.values, where=piece.mask & ~seen)
        seen |= piece.mask

    def finish(self, state: State, weight: Array) -> Array:
        return state[0]


class Last(Reducer):
    """The answer of the patch that starts last in the field, row-major."""

    def init(self, shape: tuple[int, ...], dtype: np.dtype, depth: int) -> State:
        return (np.zeros(shape, dtype),)

    def fold(self, state: State, piece: Piece) -> None:
        np.copyto(state[0][piece.region], piece.values, where=piece.mask)

    def finish(self, state: State, weight: Array) -> Array:
        return state[0]


class Centre(Reducer):
    """The answer of the patch whose centre is nearest; of two as near, the first.

    What is nearest is what has the largest weight, under a window that falls off from the centre as
    a Gaussian does: the product of such windows falls off with the distance.
    """

    window = ("gaussian", 0.5)

    def init(self, shape: tuple[int, ...], dtype: np.dtype, depth: int) -> State:
        return np.zeros(shape, dtype), np.zeros(shape)

    def fold(self, state: State, piece: Piece) -> None:
        values, nearest = (array[piece.region] for array in state)
        weight = piece.weight
        # The same distance on the other side of a centre may differ in the last bit.
        nearer = piece.mask & (weight > nearest * (1 + 1e-9))
        np.copyto(values, piece.values, where=nearer)
        np.copyto(nearest, np.broadcast_to(weight, nearest.shape), where=nearer)

    def finish(self, state: State, weight: Array) -> Array:
        return state[0]


class Collected(Reducer):
    """What needs all answers of a cell at once: they are kept in as many layers as may meet."""

    def init(self, shape: tuple[int, ...], dtype: np.dtype, depth: int) -> State:
        answers = np.zeros((depth, *shape), dtype)
        return answers, np.zeros((depth, *shape)), np.zeros((1, *shape), np.intp)

    def fold(self, state: State, piece: Piece) -> None:
        answers, weights, count = (array[piece.region] for array in state)
        layer = np.minimum(count, len(answers) - 1)
        for layers, new in ((answers, piece.values), (weights, piece.weight)):
            old = np.take_along_axis(layers, layer, axis=0)
            np.put_along_axis(layers, layer, np.where(piece.mask, new, old[0])[None], axis=0)
        count += piece.mask


class Median(Collected):
    """Median of the answers; of an even number, the mean of the middle two."""

    def finish(self, state: State, weight: Array) -> Array:
        answers, _, count = state
        unknown = np.arange(len(answers)).reshape(-1, *(1,) * (answers.ndim - 1)) >= count
        # Of 64-bit integers, the largest would not fit the infinity that sorts last.
        last = np.inf if answers.dtype.kind == "f" else _largest(answers.dtype)
        ordered = np.sort(np.where(unknown, last, answers), axis=0)
        low, high = np.maximum(count - 1, 0) // 2, np.minimum(count // 2, len(answers) - 1)
        one = np.take_along_axis(ordered, low, axis=0)[0]
        two = np.take_along_axis(ordered, high, axis=0)[0]
        if answers.dtype.kind == "f":
            return np.where(one == two, one, one / 2 + two / 2)
        # The mean of two integers, halves up, without a sum that leaves their dtype.
        return one | two if answers.dtype.kind == "b" else (one | two) - ((one ^ two) >> 1)


def _largest(dtype: np.dtype) -> bool | int:
    return True if dtype.kind == "b" else int(np.iinfo(dtype).max)


@dataclass(frozen=True, slots=True)
class Vote(Collected):
    """The answer with most votes, each as heavy as its window; of two as heavy, the smaller one.

    Parameters
    ----------
    dissent : bool
        Whether to give the share of the votes that went elsewhere instead.
    """

    dissent: bool = False
    weighted = True
    relative = True

    def dtype(self, dtype: np.dtype) -> np.dtype:
        return np.dtype(np.float32) if self.dissent else dtype

    def finish(self, state: State, weight: Array) -> Array:
        answers, weights, count = state
        winner = answers[0].copy()
        most = np.zeros(winner.shape)
        for i in range(len(answers)):
            votes = ((answers == answers[i]) * weights).sum(axis=0)
            known = i < count[0]
            tie = np.isclose(votes, most, rtol=1e-9, atol=0)
            better = known & (((votes > most) & ~tie) | (tie & (answers[i] < winner)))
            np.copyto(winner, answers[i], where=better)
            most = np.where(better, votes, most)
        if not self.dissent:
            return winner
        with np.errstate(invalid="ignore"):
            share = 1 - most / weights.sum(axis=0)
        return np.where(count[0] > 1, np.maximum(share, 0), np.nan)


#: Number of no class, of up to 255.
NO_CLASS = 255


class SoftVote(Mean):
    """The class with the highest mean probability; classes are the first dim after ``patch``."""

    joint = True

    def dtype(self, dtype: np.dtype) -> np.dtype:
        return np.dtype(np.uint8)

    def rest(self, rest: tuple[int, ...]) -> tuple[int, ...]:
        if not rest or rest[0] > NO_CLASS:
            raise ValueError(
                "reduce='soft_vote' takes probabilities of up to 255 classes along the first dim "
                f"after 'patch'; the answers have the lengths {rest} before the tiled dims."
            )
        return rest[1:]

    def finish(self, state: State, weight: Array) -> Array:
        return np.argmax(np.nan_to_num(super().finish(state, weight), nan=-np.inf), axis=0)
