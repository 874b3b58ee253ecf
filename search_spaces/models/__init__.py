"""Networks to start from: the classics of pruning papers by name, and whatever a user calls a model."""

from .classics import models
from .loading import load_model, load_weights

__all__ = ["load_model", "load_weights", "models"]
