"""What does not fit into memory is refused before it is tried."""

from __future__ import annotations

from typing import Any

import pytest

from nas_engine.gnn import Model, Sizes, make_request, model_graph, room, train_gnn
from search_spaces.errors import ConfigError

SIZES = Sizes(nodes=1000, edges=4000, features=10, edge_features=0, classes=5)


@pytest.mark.parametrize(
    ("settings", "memory", "advice"),
    [
        ({"connection": "residual"}, "plain", "take memory checkpoint, model.connection reversible, more data.parts"),
        ({"connection": "residual"}, "checkpoint", "take model.connection reversible, more data.parts"),
        ({"connection": "reversible"}, "plain", "take memory reversible, more data.parts"),
        ({"connection": "reversible"}, "checkpoint", "take memory reversible, more data.parts"),
        ({"connection": "reversible"}, "reversible", "take more data.parts or a smaller model.width"),
    ],
)
def test_what_does_not_fit_is_told_with_what_would(
    settings: dict[str, Any], memory: str, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Model(depth=100, width=32, **settings)
    graph = model_graph(model, SIZES)
    needed = room.least(model, graph, memory)
    monkeypatch.setattr(room, "free_bytes", lambda device: needed)
    room.require_room(model, graph, memory, "cpu")
    monkeypatch.setattr(room, "free_bytes", lambda device: needed - 1)
    with pytest.raises(ConfigError, match=f"with memory {memory} needs .* are free; {advice}"):
        room.require_room(model, graph, memory, "cpu")


def test_reversible_layers_need_the_least() -> None:
    model = Model(depth=100, width=32)
    graph = model_graph(model, SIZES)
    reversible, checkpoint, plain = (room.least(model, graph, m) for m in ("reversible", "checkpoint", "plain"))
    assert reversible < checkpoint < plain


def test_the_free_memory_of_this_machine_is_found() -> None:
    free = room.free_bytes("cpu")
    assert free is None or 1e6 < free < 1e14


def test_a_training_asks_first(asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "free_bytes", lambda device: 1000.0)
    request = make_request(asked)
    with pytest.raises(ConfigError, match="but 1,000 B are free"):
        train_gnn(request)
    assert not request.directory.exists()  # so that the settings can be changed
