from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.patching import oracle
from xgeocat.patching.windows import WINDOWS, weights

windows = st.one_of(
    st.sampled_from(WINDOWS),
    st.tuples(st.just("tukey"), st.floats(0, 1, allow_subnormal=False)),
    st.tuples(st.just("gaussian"), st.floats(0.025, 10)),
)


@given(windows, st.integers(1, 300))
@settings(max_examples=200, deadline=None)
def test_weights_equal_the_textbook_formula(window, size):
    got = weights(window, size)
    assert got.shape == (size,)
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, oracle.window(window, size), rtol=1e-9, atol=1e-15)


@given(windows, st.integers(1, 5000))
@settings(max_examples=200, deadline=None)
def test_every_weight_and_every_product_of_three_is_in_0_to_1(window, size):
    got = weights(window, size)
    assert (got > 0).all()
    assert (got <= 1).all()
    assert got.min() ** 3 > 0


@given(windows, st.integers(1, 300))
@settings(max_examples=100, deadline=None)
def test_windows_are_symmetric_and_highest_in_the_middle(window, size):
    got = weights(window, size)
    np.testing.assert_allclose(got, got[::-1], rtol=1e-9)
    assert (np.diff(got[: (size + 1) // 2]) >= -1e-12).all()


@pytest.mark.parametrize(("taper", "same_as"), [(0, "boxcar"), (1, "hann")])
def test_tukey_reaches_from_boxcar_to_hann(taper, same_as):
    np.testing.assert_allclose(weights(("tukey", taper), 33), weights(same_as, 33), rtol=1e-12)


def test_hann_at_half_overlap_adds_up_to_one():
    half = weights("hann", 64)
    np.testing.assert_allclose(half[32:] + half[:32], 1, rtol=1e-14)


@pytest.mark.parametrize("window", WINDOWS)
def test_a_patch_of_one_pixel_has_weight_one_or_less(window):
    assert 0 < weights(window, 1)[0] <= 1


@pytest.mark.parametrize(
    ("window", "message"),
    [
        ("kaiser", "'kaiser' is unknown.*boxcar.*hann.*tukey.*gaussian"),
        (("hann", 2), "unknown"),
        (("boxcar", 1), "unknown"),
        (("tukey", -0.1), r"taper=-0.1.*0\.\.1"),
        (("tukey", 1.1), r"taper=1.1.*0\.\.1"),
        (("gaussian", 0), "sigma=0.*0.025"),
        (("gaussian", -1), "sigma=-1"),
        (("gaussian", float("nan")), "sigma=nan"),
        (("tukey", float("nan")), "taper=nan"),
    ],
)
def test_a_bad_window_is_refused_by_name_or_number(window, message):
    with pytest.raises(ValueError, match=message):
        weights(window, 8)
