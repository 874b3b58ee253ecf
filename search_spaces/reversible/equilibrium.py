"""Deep equilibrium: the depth of a network taken to its limit, a fixed point `z = f(z, x)` of one function.

The fixed point is found by Anderson acceleration and differentiated by the implicit function theorem (Bai et al. 2019,
"Deep Equilibrium Models", theorem 1): the gradient is the fixed point of a linear equation, found in the same way. What
is held for it is the fixed point itself, however many iterations it took.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import GraphError
from .replay import Replay, uncounted

_WORSE = 4.0  # times the least residual: what was mixed so far is of no use any more


@dataclass(frozen=True)
class Solver:
    """Anderson acceleration of a fixed-point iteration (Anderson 1965; Walker and Ni 2011, section 2).

    Attributes:
        window: m, how many of the last iterates are mixed; 1 is the plain iteration.
        beta: how far a step goes from the mixed iterates to the mixed values of the function, above 0 to 1.
        iterations: calls of the function at most.
        tolerance: of the relative residual `|f(z) - z| / |f(z)|`, over all numbers together, at which to stop.
    """

    window: int = 5
    beta: float = 1.0
    iterations: int = 40
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        if self.window < 1 or self.iterations < 1 or not 0 < self.beta <= 1 or self.tolerance < 0:
            raise GraphError(f"{self}: window and iterations are 1 or more, beta above 0 to 1, tolerance 0 or more")

    def __call__(self, f: Callable[[Tensor], Tensor], z: Tensor) -> Solution:
        """The fixed point that is reached from z; where none is, the iterate with the least residual."""
        best = Solution(z, math.inf, 0)
        values: deque[Tensor] = deque(maxlen=self.window)
        steps: deque[Tensor] = deque(maxlen=self.window)
        for number in range(1, self.iterations + 1):
            value = f(z)
            step = value - z
            residual = _relative(step, value)
            if residual < best.residual:
                best = Solution(z, residual, number)
            if residual <= self.tolerance or not math.isfinite(residual):
                return Solution(best.z, best.residual, number)
            if residual > _WORSE * best.residual:
                values.clear()
                steps.clear()
            values.append(value)
            steps.append(step)
            z = self._mixed(values, steps)
        return Solution(best.z, best.residual, self.iterations)

    def unrolled(self, f: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
        """What all iterations come to, none left out: a calculation of known length, which can be exported."""
        values: deque[Tensor] = deque(maxlen=self.window)
        steps: deque[Tensor] = deque(maxlen=self.window)
        for _ in range(self.iterations):
            value = f(z)
            values.append(value)
            steps.append(value - z)
            z = self._mixed(values, steps)
        return z

    def _mixed(self, values: Sequence[Tensor], steps: Sequence[Tensor]) -> Tensor:
        """The sum of past values whose weights, 1 together, make the sum of the steps as short as can be."""
        weights = _weights(steps).to(values[0].device, values[0].dtype)
        mixed = torch.zeros_like(values[0])
        for weight, value, step in zip(weights, values, steps, strict=True):
            mixed = mixed.addcmul_(value, weight)
            if self.beta < 1:
                mixed = mixed.addcmul_(step, weight, value=self.beta - 1)
        return mixed


@dataclass(frozen=True)
class Solution:
    """Where an iteration ended.

    Attributes:
        z: the iterate with the least residual.
        residual: its relative residual; infinite where the function gave nothing finite.
        iterations: calls of the function.
    """

    z: Tensor
    residual: float
    iterations: int


def _relative(step: Tensor, value: Tensor) -> float:
    length = float(torch.linalg.vector_norm(step))
    return length / float(torch.linalg.vector_norm(value)) if length else 0.0


def _weights(steps: Sequence[Tensor]) -> Tensor:
    """Weights a, 1 together, that make `|sum a_i step_i|` least; steps are scaled to equal lengths first."""
    flat = [step.flatten() for step in steps]
    gram = torch.stack([torch.stack([torch.dot(a, b) for b in flat]) for a in flat]).cpu().double()
    lengths = gram.diagonal().sqrt().clamp(min=1e-100)
    ridge = 100 * torch.finfo(steps[0].dtype).eps * torch.eye(len(steps), dtype=gram.dtype)
    scaled = torch.linalg.solve(gram / torch.outer(lengths, lengths) + ridge, 1 / lengths) / lengths
    return scaled / scaled.sum()


class Equilibrium(nn.Module):
    """The fixed point `z = f(z, x)` of a module, trained in the memory of one call of it.

    Args:
        f: called with z `(...)`, x and the further arguments of `forward`, and gives as many numbers as z. There should
            be one fixed point that iterating comes to, as a rule because f forgets: it ends in a norm, say, to which z
            brings less than x. Random numbers inside are the same at every call of one step.
        solver: of the fixed point.
        backward: solver of the gradient's linear equation; the same, if left out.
        jacobian_free: take the gradient of the last call of f for that of the fixed point (Fung et al. 2022): one
            backward pass of f, not exact.

    Where the iteration does not converge, nothing is raised: the iterate with the least residual is used, as in
    training a tolerance is missed now and then. Look at `residual`.

    Attributes:
        residual, iterations: of the last call.
        backward_residual, backward_iterations: of the last gradient; NaN and 0 before it and where none is solved for.
    """

    def __init__(
        self,
        f: nn.Module,
        *,
        solver: Solver | None = None,
        backward: Solver | None = None,
        jacobian_free: bool = False,
    ) -> None:
        super().__init__()
        self.f = f
        self.solver = solver or Solver()
        self.backward_solver = backward or self.solver
        self.jacobian_free = jacobian_free
        self.residual, self.iterations = math.nan, 0
        self.backward_residual, self.backward_iterations = math.nan, 0

    def forward(self, x: Tensor, *arguments: Any) -> Tensor:
        """The fixed point, of the shape of x, which the iteration starts from 0 to find."""
        if torch.compiler.is_compiling():
            return self.solver.unrolled(lambda z: self.f(z, x, *arguments), torch.zeros_like(x))
        replay = Replay(x, modules=self.modules())
        tensors = [t for t in (*self.parameters(), *arguments) if isinstance(t, Tensor) and t.requires_grad]
        reads = list({id(t): t for t in tensors}.values())
        if torch.is_grad_enabled() and (reads or x.requires_grad):
            result: Tensor = _Implicit.apply(self, replay, arguments, x, *reads)
            return result
        return self._solve(replay, x, arguments)[1]

    def _solve(self, replay: Replay, x: Tensor, arguments: Sequence[Any]) -> tuple[Tensor, Tensor]:
        """The fixed point, and what one more call makes of it: batch norms count that one alone."""
        with torch.no_grad(), replay.first():
            with uncounted(self.modules()):
                found = self.solver(lambda z: self._call(replay, z, x, arguments), torch.zeros_like(x))
            self.residual, self.iterations = found.residual, found.iterations
            return found.z, self._call(replay, found.z, x, arguments)

    def _call(self, replay: Replay, z: Tensor, x: Tensor, arguments: Sequence[Any]) -> Tensor:
        replay.begin(0, 0)
        result: Tensor = self.f(z, x, *arguments)
        return result.to(x.dtype)

    def _slope(self, value: Tensor, z: Tensor, slope: Tensor) -> Tensor:
        """The gradient u by the value of f, of which `u = slope + u df/dz` (Bai et al. 2019, equation 12)."""
        if self.jacobian_free:
            return slope

        def through(u: Tensor) -> Tensor:
            (by_z,) = torch.autograd.grad(value, z, u, retain_graph=True, allow_unused=True)
            return slope if by_z is None else slope + by_z

        found = self.backward_solver(through, slope)
        self.backward_residual, self.backward_iterations = found.residual, found.iterations
        return found.z


class _Implicit(torch.autograd.Function):
    """A fixed point as one step of automatic differentiation."""

    @staticmethod
    def forward(ctx: Any, module: Equilibrium, replay: Replay, arguments: Any, x: Tensor, *reads: Tensor) -> Tensor:  # type: ignore[override]
        z, value = module._solve(replay, x, arguments)
        ctx.module, ctx.replay, ctx.arguments, ctx.reads = module, replay, arguments, reads
        ctx.save_for_backward(z, x, *reads)  # with their versions: a weight that has changed since is told
        return value

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, slope: Tensor) -> Any:  # type: ignore[override]
        z, x, *_ = ctx.saved_tensors
        with ctx.replay.again():
            z = z.detach().requires_grad_()
            own = x.detach().requires_grad_(x.requires_grad)
            with torch.enable_grad():
                value = ctx.module._call(ctx.replay, z, own, ctx.arguments)
            slope = ctx.module._slope(value, z, slope)
            wanted = [t for t in (own, *ctx.reads) if t.requires_grad]
            found = iter(torch.autograd.grad(value, wanted, slope, allow_unused=True))
        by_x = next(found) if own.requires_grad else None
        return None, None, None, by_x, *found
