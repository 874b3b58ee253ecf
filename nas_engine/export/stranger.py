"""Runs a bundle's `model.py` as someone would who has torch and nothing of this project; a script, never imported.

    python -I stranger.py BUNDLE IMAGES LOGITS

IMAGES holds a list of tensors, LOGITS gets the list of outputs, both as torch.save writes them.
"""

import sys
from types import ModuleType

FORBIDDEN = frozenset({"nas_engine", "predictors", "search_spaces", "safetensors", "onnx", "onnxruntime"})


class Blocker:
    """Refuses imports of what a stranger does not have, wherever it is installed."""

    def find_spec(self, name: str, path: object = None, target: ModuleType | None = None) -> None:
        if name.partition(".")[0] in FORBIDDEN:
            raise ImportError(f"model.py imports {name!r}, which a stranger does not have")


def main(bundle: str, images: str, logits: str) -> None:
    sys.meta_path.insert(0, Blocker())  # type: ignore[arg-type]
    sys.path.insert(0, bundle)
    sys.dont_write_bytecode = True
    import torch

    model = __import__("model")
    network = model.load(f"{bundle}/weights.safetensors")
    with torch.inference_mode():
        outputs = [network(batch) for batch in torch.load(images, weights_only=True)]
    found = FORBIDDEN & {name.partition(".")[0] for name in sys.modules}
    if found:
        raise ImportError(f"model.py runs with {', '.join(sorted(found))}, which a stranger does not have")
    torch.save(outputs, logits)


if __name__ == "__main__":
    main(*sys.argv[1:])
