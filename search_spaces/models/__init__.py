"""Networks to start from: the classics of pruning papers by name."""

from .classics import models

__all__ = ["models"]
