"""What shared weights must do for every member of a space, as a test class to inherit.

The standalone network is the oracle: on the member's slice of the weights it must give the supernet's
outputs, and its gradients must be the supernet's, with nothing outside the slice.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import ClassVar, TypeAlias

import pytest
import torch

from search_spaces import Architecture, Network, SpaceError, Supernet
from search_spaces.inputs import GraphInput
from search_spaces.kernels import KERNEL_TRANSFORM

from .measure import example_inputs, shake_statistics
from .members import Members

Given: TypeAlias = torch.Tensor | GraphInput


class SupernetContract(Members):
    """Checks of a supernet.

    Attributes:
        space: the space whose weights are shared.
        members: random members that must fit into the supernet's slots.
        slices: members of which the slice is run.
        kernel_transform: whether smaller kernels are learned maps of larger ones.
    """

    slices: ClassVar[int] = 4
    kernel_transform: ClassVar[bool] = False

    @pytest.fixture(scope="class")
    def supernet(self) -> Supernet:
        torch.manual_seed(0)
        supernet = Supernet(self.space, kernel_transform=self.kernel_transform)
        shake_statistics(supernet, torch.Generator().manual_seed(0))
        return supernet

    @pytest.fixture
    def doubled(self, supernet: Supernet) -> Supernet:
        """A copy in double precision, where equal means equal to nine digits."""
        return copy.deepcopy(supernet).double()

    def images(self, architecture: Architecture, batch: int = 4) -> Given:
        graph = self.space.graph(architecture)
        made = example_inputs(graph, batch, torch.Generator().manual_seed(0))
        return made[0] if len(made) == 1 else GraphInput(*made)

    def test_every_member_fits_into_the_slots(self, supernet: Supernet, sampled: list[Architecture]) -> None:
        slots = {name: tensor.shape for name, tensor in supernet.state_dict().items()}
        for architecture in sampled:
            for name, tensor in supernet.extract(architecture).state_dict().items():
                assert name in slots
                assert all(n <= m for n, m in zip(tensor.shape, slots[name], strict=True))

    def test_every_slot_is_used_in_full(self, supernet: Supernet) -> None:
        """A slot larger than any member needs would be trained by nobody."""
        state = supernet.state_dict()
        slots = {name: tuple(t.shape) for name, t in state.items() if f".{KERNEL_TRANSFORM}." not in name}
        largest: dict[str, tuple[int, ...]] = {}
        for architecture in self.space.envelope():
            with torch.device("meta"):
                needed = Network(self.space.graph(architecture)).state_dict()
            for name, tensor in needed.items():
                largest[name] = tuple(map(max, largest.get(name, tuple(tensor.shape)), tensor.shape))
        assert largest == slots

    def test_members_run_on_their_slice(self, doubled: Supernet, sampled: list[Architecture]) -> None:
        """Recalibrated, then extracted: the standalone network gives the supernet's outputs."""
        doubled.eval()
        for architecture in sampled[: self.slices]:
            images = doubled_precision(self.images(architecture))
            doubled.recalibrate(architecture, [images, other_way_round(images)])
            assert not doubled.training
            network = doubled.extract(architecture)
            with torch.no_grad():
                shared, alone = doubled(images, architecture), network(images)
            assert shared.shape == alone.shape
            torch.testing.assert_close(shared, alone, rtol=1e-9, atol=1e-9)

    def test_slices_agree_in_single_precision(self, supernet: Supernet, sampled: list[Architecture]) -> None:
        supernet.eval()
        for architecture in sampled[: self.slices]:
            images = self.images(architecture)
            with torch.no_grad():
                shared, alone = supernet(images, architecture), supernet.extract(architecture)(images)
            scale = max(1.0, float(alone.abs().max()))
            torch.testing.assert_close(shared / scale, alone / scale, rtol=0, atol=1e-6)

    def test_gradients_reach_the_slice_and_nothing_else(self, doubled: Supernet, sampled: list[Architecture]) -> None:
        doubled.train()
        for architecture in sampled[: self.slices]:
            images = doubled_precision(self.images(architecture))
            network = doubled.extract(architecture)
            network.memory = "plain"  # as members of a supernet run, and draw random numbers
            for module, arguments in ((network, (images,)), (doubled, (images, architecture))):
                module.zero_grad(set_to_none=True)
                torch.manual_seed(0)  # the same dropout in both
                module(*arguments).square().sum().backward()
            expected = through_slices(doubled, architecture, network)
            assert doubled.parameters_of(architecture) == set(expected)
            for name, slot in doubled.named_parameters():
                if slot.grad is None or expected.get(name) is None:
                    assert slot.grad is expected.get(name), name
                    continue
                torch.testing.assert_close(slot.grad, expected[name], rtol=1e-7, atol=1e-9, msg=name)

    def test_extracted_networks_are_copies(self, supernet: Supernet, sampled: list[Architecture]) -> None:
        before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
        network = supernet.extract(sampled[0])
        with torch.no_grad():
            for tensor in network.state_dict().values():
                tensor.zero_()
        assert all(torch.equal(tensor, before[name]) for name, tensor in supernet.state_dict().items())

    def test_supernets_are_copied_with_their_weights(self, supernet: Supernet, sampled: list[Architecture]) -> None:
        supernet.eval()
        images = self.images(sampled[0])
        with torch.no_grad():
            assert torch.equal(copy.deepcopy(supernet)(images, sampled[0]), supernet(images, sampled[0]))

    def test_architectures_of_other_spaces_are_refused(self, supernet: Supernet) -> None:
        stranger = Architecture("no-such-space", (), ())
        with pytest.raises(SpaceError, match="no-such-space"):
            supernet(torch.zeros(1, *self.space.input_shape), stranger)


def through_slices(supernet: Supernet, architecture: Architecture, network: Network) -> dict[str, torch.Tensor | None]:
    """Gradients of the shared parameters that a member uses, from those of the member alone: zero outside its slice."""
    named, slots = supernet.space.slices(architecture), dict(supernet.named_parameters())
    pulled: list[torch.Tensor] = []
    unused: dict[str, torch.Tensor | None] = {}
    for name, own in network.named_parameters():
        if own.grad is None:
            unused[name] = None
        else:
            pulled.append((supernet.slice_of(name, slots[name], own.shape, named.get(name)) * own.grad).sum())
    gradients = torch.autograd.grad(torch.stack(pulled).sum(), list(slots.values()), allow_unused=True)
    return {n: g for n, g in zip(slots, gradients, strict=True) if g is not None} | unused


def doubled_precision(images: Given) -> Given:
    """Images in double precision; whole numbers, such as the tokens of texts and the edges of graphs, as they are."""
    return each(images, lambda x: x.double() if x.is_floating_point() else x)


def other_way_round(images: Given) -> Given:
    """The batch from its last to its first."""
    return each(images, lambda x: x.flip(0))


def each(images: Given, change: Callable[[torch.Tensor], torch.Tensor]) -> Given:
    """Images, or all tensors of graphs, changed."""
    return GraphInput(*map(change, images.tensors)) if isinstance(images, GraphInput) else change(images)
