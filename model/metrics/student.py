"""Quantiles of Student's t distribution, which Python's standard library lacks. Knows nothing of what they are for."""

import math
from statistics import NormalDist


def t_quantile(share: float, freedom: int) -> float:
    """The value below which `share` of Student's t with `freedom` degrees of freedom lies.

    Exact for one and two degrees; else the Cornish-Fisher expansion of Abramowitz and Stegun, 26.7.5, right to
    0.005 between the shares 0.01 and 0.99. ValueError: a share outside 0 to 1, or no degree of freedom.
    """
    if not 0 < share < 1 or freedom < 1:
        raise ValueError(f"t_quantile: share {share} must lie between 0 and 1, freedom {freedom} above 0")
    if freedom == 1:
        return math.tan(math.pi * (share - 0.5))
    if freedom == 2:
        return (2 * share - 1) / math.sqrt(2 * share * (1 - share))
    z = NormalDist().inv_cdf(share)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return sum(term / freedom**power for power, term in enumerate(terms))
