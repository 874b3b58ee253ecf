"""Batch-norm statistics taken anew: those of the batches, and nothing else changed."""

from __future__ import annotations

import torch
from torch import nn

from nas_engine.evaluate import recalibrate
from search_spaces import Supernet, make_space


def test_statistics_are_the_mean_over_batches() -> None:
    norm = nn.BatchNorm2d(3, momentum=0.2)
    norm.running_mean.fill_(9)  # type: ignore[union-attr]
    network = nn.Sequential(norm, nn.Dropout(0.9), nn.BatchNorm2d(3))
    network[2].eval()
    batches = [torch.randn(4, 3, 5, 5) * i + i for i in (1.0, 2.0)]
    recalibrate(network, batches)
    means = torch.stack([b.mean((0, 2, 3)) for b in batches]).mean(0)
    variances = torch.stack([b.var((0, 2, 3)) for b in batches]).mean(0)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert torch.allclose(norm.running_mean, means, atol=1e-5)
    assert torch.allclose(norm.running_var, variances, atol=1e-4)
    # the second norm saw what the first gives in training mode, without dropout
    assert torch.allclose(network[2].running_mean, torch.zeros(3), atol=1e-5)
    assert [m.training for m in network] == [True, True, False]
    assert norm.momentum == 0.2


def test_it_agrees_with_that_of_supernets() -> None:
    torch.manual_seed(0)
    space = make_space("nasbench201", {"input_shape": (1, 8, 8), "channels": 4, "cells": 1})
    supernet = Supernet(space).eval()
    batches = [torch.randn(8, 1, 8, 8) for _ in range(3)]
    member = space.from_indices([3, 1, 2, 3, 0, 4])
    network = supernet.extract(member)
    recalibrate(network, batches)
    supernet.recalibrate(member, batches)
    assert torch.allclose(network(batches[0]), supernet(batches[0], member), atol=1e-5)


def test_nothing_to_do_changes_nothing() -> None:
    network = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2))
    before = {k: v.clone() for k, v in network.state_dict().items()}
    recalibrate(network, [])
    recalibrate(nn.Linear(2, 2), [torch.randn(3, 2)])
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
