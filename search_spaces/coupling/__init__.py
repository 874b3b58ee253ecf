"""Which channels go together, what is left of a graph when some go, and the smaller network.

`couple` finds units, groups and removable blocks of a graph; `cut` gives the graph of a cut that is not built,
`operate` the network; `Gated` runs the uncut network as if it were cut, or nearly.
"""

from .couple import couple
from .cutting import cut
from .gated import Gated
from .loosening import loosen
from .surgery import Surgery, operate
from .units import NONE, Block, Coupling, Edge, Frozen, Group

__all__ = [
    "NONE",
    "Block",
    "Coupling",
    "Edge",
    "Frozen",
    "Gated",
    "Group",
    "Surgery",
    "couple",
    "cut",
    "loosen",
    "operate",
]
