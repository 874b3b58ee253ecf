"""Members chosen in rounds by NAO, scored with the shared weights (NAO-WS, Luo et al. 2018).

The authors score a member on one mini-batch with batch norms in training mode, which mostly ranks the luck of the
batch; here it is judged like in any other strategy, on `sample.images` validation images (all by default) with
recalibrated batch norms.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..context import Context

if TYPE_CHECKING:
    from predictors.nao import NAORounds


def nao_rounds(context: Context) -> NAORounds:
    """The rounds that the configuration asks for, not begun.

    Raises:
        ConfigError: more rounds than the members suffice for.
    """
    from predictors.nao import NAORounds

    sample = context.config.sample
    return NAORounds(
        context.space,
        members=sample.architectures,
        rounds=sample.rounds.count,
        first=sample.rounds.first,
        seeds=sample.rounds.seeds,
        seed=context.config.seed,
    )
