"""What trying a member is worth, given what is believed of it and what was found: expected improvement.

With costs as further objectives a member is worth the improvement it may bring to whoever has a certain budget,
averaged over budgets; that is the expected gain of hypervolume, for any number of costs.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import norm


def expected_improvement(mean: np.ndarray, std: np.ndarray, level: np.ndarray | float) -> np.ndarray:
    """`E[max(0, y - level)]` for `y ~ N(mean, std^2)` (Jones et al. 1998, eq. 15); shapes are broadcast."""
    std = np.maximum(std, 1e-12)
    z = (mean - level) / std
    return np.asarray(std * (z * norm.cdf(z) + norm.pdf(z)))


def improvement_over_budgets(
    mean: np.ndarray,
    std: np.ndarray,
    costs: np.ndarray,
    found: np.ndarray,
    found_costs: np.ndarray,
    budgets: np.ndarray,
) -> np.ndarray:
    """Expected improvement for those budgets that a member meets, averaged over all budgets, `(B,)`.

    Without costs there is one budget, which everything meets, and this is the expected improvement over the best found.
    With budgets drawn uniformly from a box it is the expected gain of hypervolume in it, as a share of its base (Monte
    Carlo over costs, exact over the quality).

    Shapes: B members, n found, M budgets, k costs.

    Args:
        mean, std: beliefs about the members, `(B,)`, higher is better.
        costs: of the members, `(B, k)`.
        found: quality of what was found, `(n,)`, n >= 1.
        found_costs: their costs, `(n, k)`.
        budgets: `(M, k)`. Where nothing found meets a budget, the worst found is what there is to improve on.
    """
    meets = (found_costs[None] <= budgets[:, None]).all(2)
    levels, place = np.unique(np.where(meets, found, found.min()).max(1), return_inverse=True)
    share = np.zeros((len(mean), len(levels)))
    for number in range(len(levels)):
        within = budgets[place == number]
        share[:, number] = (costs[:, None] <= within[None]).all(2).sum(1) / len(budgets)
    return (share * expected_improvement(mean[:, None], std[:, None], levels[None])).sum(1)
