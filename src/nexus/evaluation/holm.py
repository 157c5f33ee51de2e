"""Several comparisons at once: the more there are, the likelier one of them is lucky."""

from __future__ import annotations

from collections.abc import Mapping


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's adjusted p-values: below 0.05 is a claim that holds for the whole family at 5 %.

    The k-th smallest of m is multiplied by m - k + 1, and none falls below a smaller one. Whatever
    the tests have to do with each other, the chance of any false claim is at most the level (Holm,
    Scandinavian Journal of Statistics 1979).
    """
    adjusted, least = dict(p_values), 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = least
    return adjusted
