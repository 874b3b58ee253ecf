"""Training: one loop, the programs it trains (a network, a supernet), and candidates of a search."""

from .candidate import Candidate, CandidateResult, Training, load_candidate, train_candidate
from .elastic import SupernetProgram, supernet_program
from .given import Given, load_given, train_given
from .loop import Epoch, Program, Stepped, finished_epochs, train
from .programs import DistilledProgram, NetworkProgram

__all__ = [
    "Candidate",
    "CandidateResult",
    "DistilledProgram",
    "Epoch",
    "Given",
    "NetworkProgram",
    "Program",
    "Stepped",
    "SupernetProgram",
    "Training",
    "finished_epochs",
    "load_candidate",
    "load_given",
    "supernet_program",
    "train",
    "train_candidate",
    "train_given",
]
