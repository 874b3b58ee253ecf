"""Training: one loop, the programs it trains (a network, a supernet), and candidates of a search."""

from .candidate import Candidate, CandidateResult, load_candidate, train_candidate
from .loop import Epoch, Program, Stepped, finished_epochs, train
from .programs import DistilledProgram, NetworkProgram, SupernetProgram, supernet_program

__all__ = [
    "Candidate",
    "CandidateResult",
    "DistilledProgram",
    "Epoch",
    "NetworkProgram",
    "Program",
    "Stepped",
    "SupernetProgram",
    "finished_epochs",
    "load_candidate",
    "supernet_program",
    "train",
    "train_candidate",
]
