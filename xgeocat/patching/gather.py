"""Gather: what the tasks of a stitched field do, on plain arrays.

A chunk of patches is at home in one block of the field. Where no other patches reach, its answers
are folded as they come, some rows at a time, while they are in the processor's cache; then they are
forgotten. Only what meets answers of other chunks is copied, and waits for them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from xgeocat.patching.batches import Answers
from xgeocat.patching.fold import Blend, Canvas, fold
from xgeocat.patching.meeting import Block, Duties, Met
from xgeocat.patching.parts import Bounds, Parts
from xgeocat.patching.tiling import Array, Ints, Tiling, interiors

#: For each block, what is to be folded there together with answers of other chunks.
Edges: TypeAlias = dict[Block, Parts]

#: Answers that are there already are taken this many at a time.
SOME = 32


def gather(
    answers: Array | Answers,
    starts: Ints,
    first: int,
    duties: Duties,
    onto: Canvas | tuple[int, ...],
    tiling: Tiling,
    blend: Blend,
) -> tuple[Canvas | None, Edges]:
    """Fold the answers of a chunk of patches where they are alone, and copy what meets others.

    Parameters
    ----------
    answers : numpy.ndarray or Answers
        Shape ``(patch, ..., *size)``; tiled dimensions of length one may be missing.
    starts : numpy.ndarray
        Shape ``(patch, dim)``: first cell of each patch in the field.
    first : int
        Number of the first of them.
    duties : Duties
        Where.
    onto : Canvas or tuple of int
        Where to fold; or the lengths of the dimensions that ride along: into a new array.
    tiling : Tiling
        The tiling of the whole field.
    blend : Blend
        How answers become one.

    Returns
    -------
    Canvas or None
        The block, with the cells of ``duties.clear`` done; None where there are none.
    dict of tuple of int to Parts
        Copies, by block.
    """
    if len(answers) != len(starts):
        raise ValueError(
            f"There are {len(answers)} answers for {len(starts)} patches. Whatever made the lazy "
            "array (map_blocks, a reader) says other chunks than it makes."
        )
    home = None if duties.clear is None else _canvas(onto, duties.home, blend)
    tops, bottoms = interiors(starts, tiling, blend.crop)
    meeting = [
        (block, box, _reaches(tops, bottoms, box))
        for block, boxes in duties.shared.items()
        for box in boxes
    ]
    edges: dict[Block, list[Parts]] = {}
    waiting: list[Parts] = []
    left = duties.clear
    for which, ready, batch in _batches(answers, tops[:, 0]):
        numbers = first + which
        arrived = Parts.of(batch, starts[which], numbers, tiling, blend.crop, blend.rest)
        for block, box, reaching in meeting:
            if reaching[which].any():
                edges.setdefault(block, []).append(arrived.within(box).alone())
        if left is None or home is None:
            continue
        done, left = _split(left, ready)
        if done is not None:
            fold([*waiting, arrived], done, home, tiling, blend)
        if left is not None:
            waiting = [w for w in (w.within(left) for w in waiting) if len(w)]
            waiting.append(arrived.within(left).alone())
    return home, {block: Parts.joined(some) for block, some in edges.items()}


def _reaches(lo: Ints, hi: Ints, box: Bounds) -> NDArray[np.bool_]:
    """Which patches reach a box."""
    return np.logical_and.reduce((lo < box[1]) & (hi > box[0]), axis=1)


def _batches(answers: Array | Answers, tops: Ints) -> Iterator[tuple[Ints, float, Array]]:
    """Numbers of patches, the first row that later ones reach, and the answers of these."""
    come = np.zeros(len(tops), bool)
    if isinstance(answers, Answers):
        batches = answers.batches()
    else:
        numbers = np.split(np.arange(len(tops)), range(SOME, len(tops), SOME))
        batches = ((some, answers[some[0] : some[-1] + 1]) for some in numbers)
    for which, batch in batches:
        come[which] = True
        yield which, tops[~come].min(initial=np.iinfo(np.int64).max), batch


def _split(box: Bounds, row: float) -> tuple[Bounds | None, Bounds | None]:
    """Split a box before a row of the first dimension; None where nothing is left."""
    (top, *left), (bottom, *right) = box
    at = int(min(max(row, top), bottom))
    above = ((top, *left), (at, *right)) if at > top else None
    below = ((at, *left), (bottom, *right)) if at < bottom else None
    return above, below


def finish(
    home: Canvas | None,
    edges: Sequence[Edges],
    block: Block,
    met: Met,
    onto: Canvas | tuple[int, ...],
    tiling: Tiling,
    blend: Blend,
) -> Array:
    """Finish a block where answers of several chunks meet: shape ``(..., *block)``.

    Parameters
    ----------
    home : Canvas or None
        The block, as far as the chunk at home there has folded it.
    edges : sequence of dict of tuple of int to Parts
        What chunks of patches have to do with blocks.
    block : tuple of int
        Number of the block.
    met : Met
        The block.
    onto, tiling, blend
        See :func:`gather`.
    """
    if home is None:
        home = _canvas(onto, met.bounds, blend)
    elif not home.values.flags.writeable:
        # It was sent here from another process.
        home = Canvas(home.values.copy(), home.origin)
    found = [some[block] for some in edges if block in some]
    for box in met.shared:
        fold(found, box, home, tiling, blend)
    values: Array = home.values[home.region(met.bounds)]
    return values


def _canvas(onto: Canvas | tuple[int, ...], bounds: Bounds, blend: Blend) -> Canvas:
    return onto if isinstance(onto, Canvas) else Canvas.over(bounds, onto, blend)
