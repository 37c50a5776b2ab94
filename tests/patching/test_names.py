from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest

from xgeocat.patching.names import qualified_name


@pytest.mark.parametrize(
    ("thing", "expected"),
    [
        (np.negative, "numpy.negative"),
        (np.linalg.norm, "numpy.linalg.norm"),
        (json.JSONEncoder().encode, "json.encoder.JSONEncoder.encode"),
        (json.JSONEncoder(), "json.encoder.JSONEncoder"),
        (partial(np.add, 1, dtype="f4"), "numpy.add(1, dtype='f4')"),
    ],
)
def test_qualified_names(thing, expected):
    assert qualified_name(thing) == expected
