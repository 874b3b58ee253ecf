"""Training of one deep graph network: its settings, its graph, its memory, and the way from data to a trained one."""

from .model import PUBLISHED, Model, Sizes, model_graph
from .request import Request, load_request, make_request
from .training import train_gnn

__all__ = ["PUBLISHED", "Model", "Request", "Sizes", "load_request", "make_request", "model_graph", "train_gnn"]
