"""Blocks to compare the dynamic block with: the first-order form, and the plain weight-tied residual network.

They have no second-order dynamics, so whatever they achieve cannot be credited to those.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from continuous_unet.models.blocks import Block, BlockConfig, DynamicBlock
from continuous_unet.models.conditioning import Conditioning
from continuous_unet.models.fields import FieldConfig, InitialVelocity, Trunk
from continuous_unet.models.layers import zeroed
from continuous_unet.ode import METHODS
from continuous_unet.ode.adaptive import import_torchdiffeq


class UpdateField(nn.Module):
    """`F(t, x; conditioning)` without velocity: one trunk and a 3x3 convolution that starts at zero."""

    def __init__(self, config: FieldConfig) -> None:
        super().__init__()
        self.trunk = Trunk(config, config.channels)
        self.out = zeroed(config.conv(self.trunk.out_channels, config.channels))

    def forward(self, t: float | Tensor, x: Tensor, conditioning: Conditioning) -> Tensor:
        """Returns the update of features `(B, C, *size)`, of the same shape."""
        return self.out(self.trunk(t, x, conditioning))


class FirstOrderBlock(Block):
    """The first-order form over the concatenated state, as the code of arXiv 2310.20092 ran it.

    It solves `z' = f(t, z; emb)` from `z(0) = (features, g(features))` with torchdiffeq (the `adaptive` extra), and
    returns the first half of `z(horizon)`. Nothing ties `x'` to `v`. Its convolutions have 3.8 times the parameters of
    a relaxation field's, and 2.7 times those of a general field's.
    """

    def __init__(self, config: BlockConfig) -> None:
        super().__init__(config)
        self.field = UpdateField(replace(config.field, channels=2 * config.field.channels))
        self.initial_velocity = InitialVelocity(config.field)

    @classmethod
    def check(cls, field_type: str, method: str, gradient: str) -> None:
        scheme = METHODS.get(method)
        if gradient not in ("backprop", "adjoint"):
            raise ValueError(
                f"gradient={gradient!r} is not torchdiffeq's; block_type='first_order' has that solver only: "
                "use 'backprop' or 'adjoint'"
            )
        if scheme is not None and scheme.torchdiffeq_name is None:
            raise ValueError(
                f"method={method!r} is for second-order ODEs; block_type='first_order' needs one of "
                "torchdiffeq's, for example 'rk4'"
            )

    def forward(self, x: Tensor, conditioning: Conditioning, num_steps: int | None = None) -> Tensor:
        torchdiffeq = import_torchdiffeq("block_type='first_order' needs")
        solver, scheme = self.solver, METHODS.get(self.solver.method)
        conditioning = self.at_depth(conditioning, num_steps)

        def derivative(t: Tensor, z: Tensor) -> Tensor:
            return self.field(t, z, conditioning)

        z = torch.cat([x, self.initial_velocity(x, conditioning).to(x.dtype)], dim=1)
        steps = solver.num_steps if num_steps is None else num_steps
        times = torch.linspace(0.0, solver.horizon, steps + 1, dtype=z.dtype, device=z.device)
        settings = {
            "method": solver.method if scheme is None else scheme.torchdiffeq_name,
            "rtol": solver.rtol,
            "atol": solver.atol,
        }
        if solver.gradient == "adjoint" and torch.is_grad_enabled():
            # the embedding is made outside the field: the adjoint gives it a gradient only if it is listed here
            wanted = tuple(t for t in (conditioning.embedding, *self.field.parameters()) if t.requires_grad)
            end = torchdiffeq.odeint_adjoint(derivative, z, times, adjoint_params=wanted, **settings)[-1]
        else:
            end = torchdiffeq.odeint(derivative, z, times, **settings)[-1]
        return end[:, : x.shape[1]]


class ResidualBlock(Block):
    """The weight-tied control: it repeats `x <- x + F(t, x; emb)` once per solver step of the others.

    It has neither velocity nor solver. With a number of steps other than the trained one, the updates are scaled so
    that their total weight stays: this is Euler's method for `x' = F`.
    """

    def __init__(self, config: BlockConfig) -> None:
        super().__init__(config)
        self.field = UpdateField(config.field)

    @classmethod
    def check(cls, field_type: str, method: str, gradient: str) -> None:
        if gradient not in ("backprop", "checkpoint"):
            raise ValueError(
                f"gradient={gradient!r} is for solvers, and block_type='residual' has none; use 'backprop' or "
                "'checkpoint'"
            )

    def times(self, num_steps: int | None = None) -> tuple[float, ...]:
        steps = self.solver.num_steps if num_steps is None else num_steps
        return tuple(step * (self.solver.horizon / steps) for step in range(steps))

    def forward(self, x: Tensor, conditioning: Conditioning, num_steps: int | None = None) -> Tensor:
        times, conditioning = self.times(num_steps), self.at_depth(conditioning, num_steps)
        step_size = self.solver.horizon / len(times)
        if x.dtype != torch.float32 and torch.is_autocast_enabled(x.device.type):
            x = x.float()  # like the state of the dynamic block
        checkpointing = self.solver.gradient == "checkpoint" and torch.is_grad_enabled() and not torch.jit.is_tracing()
        for time in times:

            def update(x: Tensor, t: float = time) -> Tensor:
                return x + step_size * self.field(t, x, conditioning)

            x = checkpoint(update, x, use_reentrant=False) if checkpointing else update(x)
        return x


BLOCKS: dict[str, type[Block]] = {
    "second_order": DynamicBlock,
    "first_order": FirstOrderBlock,
    "residual": ResidualBlock,
}
"""Blocks by the name that `ContinuousUNet2DModel(block_type=...)` takes."""
