"""The Wilson interval: known values, and the equation whose roots its ends are."""

from __future__ import annotations

import pytest

from tokscale.scaling import wilson_interval


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (8, 10, 0.4902, 0.9433), (50, 100, 0.4038, 0.5962)],
)
def test_wilson(correct, n, low, high):
    """Both ends solve `(p - x)^2 = z^2 x (1 - x) / n`."""
    ends = wilson_interval(correct / n, n)
    assert ends == pytest.approx((low, high), abs=5e-5)
    for end in ends:
        assert (correct / n - end) ** 2 == pytest.approx(1.959963984540054**2 * end * (1 - end) / n, abs=1e-12)
