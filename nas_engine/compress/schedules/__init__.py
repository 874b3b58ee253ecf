"""When and how much: pruning at once, by steps while the network trains, or with probabilities that rise and fall."""

from .base import Choose, Plan, Schedule, ScheduledProgram, register_schedule, schedules
from .geometric import Geometric
from .iterative import Iterative
from .one_shot import OneShot
from .spp import SppChannels, SppColumns

__all__ = [
    "Choose",
    "Geometric",
    "Iterative",
    "OneShot",
    "Plan",
    "Schedule",
    "ScheduledProgram",
    "SppChannels",
    "SppColumns",
    "register_schedule",
    "schedules",
]
