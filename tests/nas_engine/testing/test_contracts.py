"""The shipped contracts catch what they promise: components with one fault each fail exactly the checks named here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from nas_engine.testing import OperatorContract, SpaceContract

ROOT = Path(__file__).resolve().parents[3]

FILE = '''
from search_spaces import Choice, Cost, GraphBuilder, Operator, SearchSpace, register_operator, register_space
from nas_engine.testing import OperatorContract, SpaceContract, StandaloneSpaceContract, example


class Small(SearchSpace):
    def __init__(self, *, input_shape=(3, 8, 8), classes=4):
        depth = Choice("depth", (1, 2))
        choices = [depth, Choice("width", (4, 8)), Choice("kernel", (3, 5), when=("depth", (2,)))]
        super().__init__(choices, input_shape=input_shape, classes=classes)

    def graph(self, architecture):
        g = GraphBuilder(self.input_shape)
        x = g.add("conv_bn_act", g.input, name="stem", out_channels=architecture["width"])
        if architecture["depth"] == 2:
            x = g.add("conv_bn_act", x, name="second", out_channels=8, kernel_size=architecture["kernel"])
        else:
            x = g.add("conv_bn_act", x, name="other", out_channels=8, kernel_size=1)
        return g.build(g.add("classifier", x, name="head", classes=self.classes))


@register_space("sound")
class Sound(Small):
    pass


class TestSound(SpaceContract):
    space = Sound()


@register_space("wrong_size")
class WrongSize(Small):
    size = 7


class TestWrongSize(StandaloneSpaceContract):
    space = WrongSize()


@register_space("stuck_mutation")
class StuckMutation(Small):
    def mutate(self, architecture, rng, changes=1):
        return architecture


class TestStuckMutation(StandaloneSpaceContract):
    space = StuckMutation()


@register_space("own_chance")
class OwnChance(Small):
    def sample(self, rng):
        import random
        return self.from_indices([random.SystemRandom().randrange(2) for _ in self.choices])


class TestOwnChance(StandaloneSpaceContract):
    space = OwnChance()


@register_space("dear_canonical")
class DearCanonical(Small):
    def canonical(self, architecture):
        return self.from_indices([1, 1, 1])


class TestDearCanonical(StandaloneSpaceContract):
    space = DearCanonical()


@register_space("fixed_ends")
class FixedEnds(Small):
    def graph(self, architecture):
        g = GraphBuilder((3, 8, 8))
        x = g.add("conv2d", g.input, name="stem", out_channels=architecture["width"])
        return g.build(g.add("classifier", x, name="head", classes=4))


class TestFixedEnds(StandaloneSpaceContract):
    space = FixedEnds()


@register_space("numbered")
class Numbered(Small):
    made = 0

    def graph(self, architecture):
        Numbered.made += 1
        g = GraphBuilder(self.input_shape)
        x = g.add("conv2d", g.input, name=f"stem{Numbered.made}", out_channels=architecture["width"])
        return g.build(g.add("classifier", x, name="head", classes=self.classes))


class TestNumbered(StandaloneSpaceContract):
    space = Numbered()


class Scale(Operator):
    """Each channel times a learned number."""

    def shape(self, *inputs):
        return inputs[0]

    def cost(self, inputs, output):
        return self.moving(inputs, output, params=inputs[0][0])

    def constructor(self, *inputs):
        return f"nn.Conv2d({inputs[0][0]}, {inputs[0][0]}, 1, groups={inputs[0][0]}, bias=False)"


@register_operator("lies_about_macs")
class LiesAboutMacs(Scale):
    pass


@register_operator("lies_about_params")
class LiesAboutParams(Scale):
    def cost(self, inputs, output):
        return self.moving(inputs, output, params=1, macs=inputs[0][0] * 16)


@register_operator("lies_about_shape")
class LiesAboutShape(Operator):
    def shape(self, *inputs):
        return inputs[0]

    def expression(self, *names):
        return f"torch.flatten({names[0]}, 1)"


@register_operator("writes_in_place")
class WritesInPlace(Operator):
    def shape(self, *inputs):
        return inputs[0]

    def expression(self, *names):
        return f"{names[0]}.mul_(2)"


@register_operator("mixes_the_batch")
class MixesTheBatch(Operator):
    def shape(self, *inputs):
        return inputs[0]

    def expression(self, *names):
        return f"{names[0]} - {names[0]}.mean(0)"


@register_operator("plays_dice")
class PlaysDice(Operator):
    def shape(self, *inputs):
        return inputs[0]

    def expression(self, *names):
        return f"F.dropout({names[0]}, 0.5) * 0 + torch.rand_like({names[0]})"


IMAGE = (4, 4, 4)


class TestOperators(OperatorContract):
    examples = tuple(
        example(fault, IMAGE)
        for fault in (
            "lies_about_macs",
            "lies_about_params",
            "lies_about_shape",
            "writes_in_place",
            "mixes_the_batch",
            "plays_dice",
        )
    )
'''

EXPECTED = {
    "TestSound": set(),
    "TestWrongSize": {"test_size_is_the_number_of_members"},
    "TestStuckMutation": {"test_mutants_are_other_members"},
    "TestOwnChance": {"test_samples_follow_the_generator"},
    "TestDearCanonical": {"test_canonical_members_are_the_same_network_or_cheaper"},
    "TestFixedEnds": {"test_other_data_give_other_ends"},
    "TestNumbered": {"test_graphs_are_repeatable", "test_sketches_are_graphs"},
    "TestOperators": {
        "test_macs_are_those_of_torch[lies_about_macs]",
        "test_params_are_those_of_torch[lies_about_params]",
        "test_output_shape_is_that_of_torch[lies_about_shape]",
        "test_inputs_are_left_alone[writes_in_place]",
        "test_examples_of_a_batch_do_not_mix[mixes_the_batch]",
        "test_plain_functions_are_plain[plays_dice]",
        "test_examples_of_a_batch_do_not_mix[plays_dice]",
    },
}


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """Class and check to passed, failure, error or skipped, from a run of pytest of its own."""
    folder = tmp_path_factory.mktemp("contracts")
    (folder / "test_mine.py").write_text(FILE)
    (folder / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--junitxml=out.xml", "test_mine.py"]
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": ""}
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 1, run.stdout + run.stderr
    outcomes: dict[str, dict[str, str]] = {}
    for case in ElementTree.parse(folder / "out.xml").iter("testcase"):
        group = case.attrib["classname"].rpartition(".")[2]
        result = "passed" if len(case) == 0 else case[0].tag
        outcomes.setdefault(group, {})[case.attrib["name"]] = result
    return outcomes


@pytest.mark.parametrize("group", EXPECTED)
def test_faults_are_caught_and_nothing_else_is(group: str, outcome: dict[str, dict[str, str]]) -> None:
    assert {check for check, result in outcome[group].items() if result not in ("passed", "skipped")} == EXPECTED[group]


def test_one_line_buys_many_checks(outcome: dict[str, dict[str, str]]) -> None:
    assert list(outcome["TestSound"].values()).count("passed") >= 25
    assert not [r for r in outcome["TestSound"].values() if r == "skipped"]


def test_contracts_are_not_collected_themselves() -> None:
    """Pytest collects classes called Test...; a contract that is only imported must not run."""
    assert not SpaceContract.__name__.startswith("Test")
    assert not OperatorContract.__name__.startswith("Test")
