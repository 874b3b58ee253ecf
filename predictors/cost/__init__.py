"""What a network costs: counted from its graph, or looked up in a table that was measured on the user's device.

`make_cost_model(name)` gives the counted ones (`params`, `macs`, `adds`, `shifts`, `bytes_moved`, `activation_bytes`,
`train_memory_bytes`);
`LatencyModel.build` measures a space's operators on a device within a granted time, `Roofline.measure` a device alone.
`check_guidelines` says in words why a network is slower than its MACs. Importing this package does not import torch.
"""

from .analytic import ActivationBytes, Adds, BytesMoved, Macs, Params, Shifts
from .base import CostModel, cost_models, make_cost_model, register_cost_model
from .correction import Correction, NetworkError
from .device import DeviceProfile, cache_directory
from .guidelines import Finding, check_guidelines, explain, worst_first
from .interpolation import UnitError
from .latency import LatencyError, LatencyModel, WholeNetwork
from .measure import Measurement, NetworkTimer, measure_call, measure_calls, measure_network, measure_networks
from .regression import HeldOut, Regression, read_measurements
from .roofline import Roofline, RooflineError
from .table import OperatorTable
from .training import TrainMemoryBytes
from .transfer import OtherDevices

__all__ = [
    "ActivationBytes",
    "Adds",
    "BytesMoved",
    "Correction",
    "CostModel",
    "DeviceProfile",
    "Finding",
    "HeldOut",
    "LatencyError",
    "LatencyModel",
    "Macs",
    "Measurement",
    "NetworkError",
    "NetworkTimer",
    "OperatorTable",
    "OtherDevices",
    "Params",
    "Regression",
    "Roofline",
    "RooflineError",
    "Shifts",
    "TrainMemoryBytes",
    "UnitError",
    "WholeNetwork",
    "cache_directory",
    "check_guidelines",
    "cost_models",
    "explain",
    "make_cost_model",
    "measure_call",
    "measure_calls",
    "measure_network",
    "measure_networks",
    "read_measurements",
    "register_cost_model",
    "worst_first",
]
