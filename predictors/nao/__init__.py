"""NAO (Luo et al. 2018): members as sequences, embedded by an LSTM, scored, improved by gradients and written again.

`NAOPredictor` ranks members like every predictor; with a decoder (`JOINT`) `NAOProposer` walks in its embedding to
members that nobody tried.
"""

from .decoder import Decoder
from .encoder import Scorer, SequenceEncoder
from .moves import NAOProposer, improved
from .predictor import NAOPredictor, Networks
from .rounds import NAORounds
from .settings import JOINT, SEARCH, NAOSettings

__all__ = [
    "JOINT",
    "SEARCH",
    "Decoder",
    "NAOPredictor",
    "NAOProposer",
    "NAORounds",
    "NAOSettings",
    "Networks",
    "Scorer",
    "SequenceEncoder",
    "improved",
]
