"""A search small enough for tests: digits, tiny cells, seconds a stage."""

from __future__ import annotations

from typing import Any

SMALL: dict[str, Any] = {
    "name": "tiny",
    "threads": 1,
    "data": {"source": "digits", "limit": 300},
    "device": {"measure_seconds": 3},
    "space": {"name": "nasbench201", "channels": 4, "cells": 1, "stages": 2},
    "constraints": ["params <= 4000"],
    "supernet": {"epochs": 4},
    "sample": {"architectures": 16, "workers": 1},
    "predictor": {"name": "gcn", "members": 2, "epochs": 20},
    "table": {"workers": 1},
    "search": {"trials": 3, "epochs": 4, "grace_epochs": 2, "threads": 1},
    "export": {"networks": 2, "formats": ["model.py", "torch_export"]},
}
