"""The interval of a share of right answers."""

from __future__ import annotations

import math


def wilson_interval(share: float, n: float, z: float = 1.959963984540054) -> tuple[float, float]:
    """Return the Wilson interval of `share` of n items, 95 % with the default z.

    `(p + z^2/2n +- z sqrt(p (1 - p)/n + z^2/4n^2)) / (1 + z^2/n)`, cut to [0, 1]: unlike `p +- z sqrt(p (1 - p)/n)` it
    holds for few items and near 0 and 1.

    Example:
        >>> [round(end, 4) for end in wilson_interval(0.8, 10)]
        [0.4902, 0.9433]

    Source:
        E. B. Wilson. Probable Inference, the Law of Succession, and Statistical Inference. 1927.
    """
    shrink = 1 + z * z / n
    centre = (share + z * z / (2 * n)) / shrink
    half = z * math.sqrt(max(share * (1 - share), 0.0) / n + z * z / (4 * n * n)) / shrink
    return max(0.0, centre - half), min(1.0, centre + half)
