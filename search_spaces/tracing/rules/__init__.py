"""What torch's functions mean in operators; importing this package files all rules."""

from . import arithmetic, attention, layers, movement, pooling

__all__ = ["arithmetic", "attention", "layers", "movement", "pooling"]
