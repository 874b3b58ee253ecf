"""Runs a bundle's `model.py` as someone would who has torch, for graphs PyTorch Geometric too, and nothing of this
project; a script, never imported.

    python -I stranger.py BUNDLE INPUTS LOGITS

INPUTS holds a list of tuples of tensors, what the network is called with; LOGITS gets the list of outputs. Both are as
torch.save writes them.
"""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

FORBIDDEN = frozenset({"nas_engine", "predictors", "search_spaces", "safetensors", "onnx", "onnxruntime"})


class Blocker:
    """Refuses imports of what a stranger does not have, wherever it is installed; libraries may ask if it is."""

    def find_spec(self, name: str, path: object = None, target: ModuleType | None = None) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name.partition(".")[0] in FORBIDDEN else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> None:
        raise ImportError(f"model.py imports {spec.name!r}, which a stranger does not have")

    def exec_module(self, module: ModuleType) -> None:
        """Never reached; Python asks for it."""


def main(bundle: str, inputs: str, logits: str) -> None:
    sys.meta_path.insert(0, Blocker())  # type: ignore[arg-type]
    sys.path.insert(0, bundle)
    sys.dont_write_bytecode = True
    import torch

    model = __import__("model")
    network = model.load(f"{bundle}/weights.safetensors")
    with torch.inference_mode():
        outputs = [network(*batch) for batch in torch.load(inputs, weights_only=True)]
    found = FORBIDDEN & {name.partition(".")[0] for name in sys.modules}
    if found:
        raise ImportError(f"model.py runs with {', '.join(sorted(found))}, which a stranger does not have")
    torch.save(outputs, logits)


if __name__ == "__main__":
    main(*sys.argv[1:])
