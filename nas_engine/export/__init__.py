"""Handing a network over: a bundle of forms, each loaded again and compared with the original.

A form (`model.py`, `model.pt2`, `model.onnx`) is one small class in one file: how it is written, and how a stranger
runs it. `exporters` lists them; a new form is one more class with `@register_exporter`.
"""

from . import model_py, onnx, torch_export  # noqa: F401
from .base import Exporter, exporters, refused, register_exporter
from .bundle import FORMATS, TOLERANCE, BundleReport, export_bundle, load_bundle
from .card import Card

__all__ = [
    "FORMATS",
    "TOLERANCE",
    "BundleReport",
    "Card",
    "Exporter",
    "export_bundle",
    "exporters",
    "load_bundle",
    "refused",
    "register_exporter",
]
