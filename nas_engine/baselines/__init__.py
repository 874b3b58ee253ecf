"""Networks of others beside a search: made for its data, scaled to its latency, compared with what it found."""

from .comparing import Comparison, compared
from .making import Made, make_baseline
from .sizing import Sized, Sizing

__all__ = ["Comparison", "Made", "Sized", "Sizing", "compared", "make_baseline"]
