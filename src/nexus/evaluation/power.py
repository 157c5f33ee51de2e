"""What a comparison could have seen, had it been there."""

from __future__ import annotations

import math
from statistics import NormalDist


def detectable_difference(
    items: int, *, discordant: float = 0.15, power: float = 0.8, level: float = 0.05
) -> float:
    """The smallest difference of two accuracies that a paired comparison finds with `power`.

    (z(1 - level/2) + z(power)) sqrt(discordant / items), as a share: 0.077 for 200 items.

    Args:
        items: how many items both models answered.
        discordant: the share of items that exactly one of the two gets right.
        power: how often a true difference of this size is found.
        level: how often a difference is found where there is none.
    """
    normal = NormalDist()
    return (normal.inv_cdf(1 - level / 2) + normal.inv_cdf(power)) * math.sqrt(discordant / items)
