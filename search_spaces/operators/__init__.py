"""What nodes of a graph do: one small class an operator, one file a family.

An operator says three things: the shape it gives, what it costs, and its torch side as one line of source
(or, for a composite, its inner graph). The executor evaluates that line and the exporter writes it down,
so an exported `model.py` cannot differ from what was trained. Adding an operator is adding one class.
"""

from . import message_passing, multiplication_free, recurrent  # noqa: F401
from .base import Cost, Operator, Shape, make_operator, operators, register_operator

__all__ = ["Cost", "Operator", "Shape", "make_operator", "operators", "register_operator"]
