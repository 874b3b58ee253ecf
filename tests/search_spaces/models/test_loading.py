"""Models and weights from names, files and directories, and what is said where they do not fit."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from search_spaces.errors import ConfigError, SpaceError
from search_spaces.models import load_model, load_weights, models

FILE = """
from beside import WIDTH
from torch import nn

class Small(nn.Module):
    def __init__(self, num_classes=3):
        super().__init__()
        self.last = nn.Linear(WIDTH, num_classes)
    def forward(self, x):
        return self.last(x.mean((2, 3)))

def make(input_shape, classes):
    return nn.Sequential(nn.Conv2d(input_shape[0], 4, 3), nn.Flatten(), nn.LazyLinear(classes))

def needs(depth):
    return None

def no_module():
    return 3

def fails():
    raise ValueError("no such thing")
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "beside.py").write_text("WIDTH = 3\n")
    path = tmp_path / "nets.py"
    path.write_text(FILE)
    return path


def test_a_function_is_given_what_it_names(file: Path) -> None:
    module = load_model(f"{file}:make", input_shape=(2, 8, 8), classes=6)
    assert module[0].in_channels == 2
    assert not module.training
    assert load_model(f"{file}:Small", classes=9).last.out_features == 9


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mak", "did you mean 'make'"),
        ("needs", "needs depth"),
        ("no_module", "gives int"),
        ("fails", "ValueError: no such thing"),
        ("WIDTH", "no function as 'WIDTH'"),
    ],
)
def test_functions_that_cannot_be_used(file: Path, name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_model(f"{file}:{name}")


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("import torch\n1 / 0\n")
    with pytest.raises(ConfigError, match=r"ZeroDivisionError.*line 2"):
        load_model(f"{broken}:make")
    with pytest.raises(ConfigError, match="no file"):
        load_model(f"{tmp_path}/absent.py:make")
    with pytest.raises(ConfigError, match=r"add the function"):
        load_model("nets.py")
    with pytest.raises(ConfigError, match="no directory"):
        load_model("some/where")
    with pytest.raises(ConfigError, match="no architecture.json"):
        load_model(tmp_path)


def test_names_of_libraries() -> None:
    pytest.importorskip("torchvision")
    bare = load_model("mobilenet_v2", classes=4)
    assert type(bare) is type(load_model("torchvision:mobilenet_v2"))
    assert bare.classifier[1].out_features == 4
    with pytest.raises(ConfigError, match="3 channels"):
        load_model("torchvision:resnet18", input_shape=(1, 32, 32))


def test_names_of_timm() -> None:
    pytest.importorskip("timm")
    vit = load_model("timm:vit_tiny_patch16_224", input_shape=(1, 32, 32), classes=4)
    assert vit(torch.zeros(1, 1, 32, 32)).shape == (1, 4)
    with pytest.raises(ConfigError, match="did you mean 'resnet50"):
        load_model("timm:resnet5o")


def test_an_unknown_name_is_told_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'resnet56'"):
        load_model("resnet65")


def test_weights_in_all_usual_forms(tmp_path: Path) -> None:
    trained = models["lenet5"]()
    state = trained.state_dict()
    parallel = {f"module.{k}": v for k, v in state.items()}
    save_file(state, tmp_path / "a.safetensors")
    torch.save(parallel, tmp_path / "b.pt")
    torch.save({"epoch": 3, "state_dict": {f"_orig_mod.{k}": v for k, v in parallel.items()}}, tmp_path / "c.th")
    for name in ("a.safetensors", "b.pt", "c.th"):
        loaded = load_model("lenet5", input_shape=(1, 28, 28), weights=tmp_path / name)
        assert all(torch.equal(v, state[k]) for k, v in loaded.state_dict().items()), name


def test_counters_of_batch_norms_may_be_missing(tmp_path: Path) -> None:
    module = nn.Sequential(nn.BatchNorm2d(3))
    state = {k: v + 1 for k, v in module.state_dict().items() if "tracked" not in k}
    save_file(state, tmp_path / "w.safetensors")
    load_weights(module, tmp_path / "w.safetensors")
    assert torch.equal(module[0].running_mean, torch.ones(3))
    with pytest.raises(ConfigError, match="no file of weights"):
        load_weights(module, tmp_path / "absent.pt")


def test_weights_of_another_architecture_leave_the_model_alone(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file(models["resnet20"](classes=100).state_dict(), path)
    bytes_before = path.read_bytes()
    module = models["resnet20"](option="B")
    before = {k: v.clone() for k, v in module.state_dict().items()}
    with pytest.raises(
        SpaceError, match=r"missing: layer2.0.shortcut.*linear.weight \(100, 64\) instead of \(10, 64\)"
    ):
        load_weights(module, path, "resnet20")
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    assert path.read_bytes() == bytes_before


def test_files_that_hold_no_weights(tmp_path: Path) -> None:
    text, objects, broken = (tmp_path / name for name in ("a.safetensors", "b.pt", "c.pt"))
    text.write_text("no tensors")
    torch.save({"epoch": 3}, objects)
    torch.save(models["lenet5"](), broken)  # a pickled module would run code when it is read
    for path, words in ((text, "holds no weights"), (objects, "no state dict"), (broken, "read safely")):
        with pytest.raises(ConfigError, match=words):
            load_weights(models["lenet5"](), path)


def test_numbers_that_are_not_finite(tmp_path: Path) -> None:
    state = models["lenet5"]().state_dict()
    state["fc2.bias"][0] = float("nan")
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(SpaceError, match=r"not finite: fc2.bias"):
        load_weights(models["lenet5"](), tmp_path / "w.safetensors")
