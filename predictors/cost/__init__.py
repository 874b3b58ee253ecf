"""What a network costs: counted from its graph, or looked up in a table that was measured on the user's device.

`make_cost_model(name)` gives the counted ones (`params`, `macs`, `bytes_moved`, `activation_bytes`);
`LatencyModel.build` measures a device within a granted time. Importing this package does not import torch.
"""

from .analytic import ActivationBytes, BytesMoved, Macs, Params
from .base import CostModel, cost_models, make_cost_model, register_cost_model
from .correction import Correction, NetworkError
from .device import DeviceProfile, cache_directory
from .interpolation import UnitError
from .latency import LatencyError, LatencyModel, WholeNetwork
from .measure import Measurement, NetworkTimer, measure_call, measure_calls, measure_network, measure_networks
from .table import OperatorTable

__all__ = [
    "ActivationBytes",
    "BytesMoved",
    "Correction",
    "CostModel",
    "DeviceProfile",
    "LatencyError",
    "LatencyModel",
    "Macs",
    "Measurement",
    "NetworkError",
    "NetworkTimer",
    "OperatorTable",
    "Params",
    "UnitError",
    "WholeNetwork",
    "cache_directory",
    "cost_models",
    "make_cost_model",
    "measure_call",
    "measure_calls",
    "measure_network",
    "measure_networks",
    "register_cost_model",
]
