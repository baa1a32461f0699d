"""The settings of a continuous U-Net of any dimension. They check themselves, and errors name the setting."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from continuous_unet.models.blocks import SolverConfig
from continuous_unet.models.controls import BLOCKS
from continuous_unet.models.fields import FIELDS, INITIAL_VELOCITIES, FieldConfig
from continuous_unet.models.layers import NORM_TYPES
from continuous_unet.models.waves import MIXINGS
from continuous_unet.ode import ADAPTIVE_METHODS
from continuous_unet.text.transformer import TextEncoderConfig

Values = Mapping[str, Any]
DOWN_BLOCK_TYPES = ("DownBlock2D", "AttnDownBlock2D")
UP_BLOCK_TYPES = ("UpBlock2D", "AttnUpBlock2D")


@dataclass(frozen=True)
class Settings:
    """The settings of a U-Net; `ContinuousUNet2DModel` documents each of them."""

    sample_size: int | tuple[int, ...] | None = None
    in_channels: int = 3
    out_channels: int = 3
    center_input_sample: bool = False
    time_embedding_dim: int | None = None
    freq_shift: int = 0
    flip_sin_to_cos: bool = True
    down_block_types: tuple[str, ...] | None = None
    mid_block_type: str | None = "UNetMidBlock2D"
    up_block_types: tuple[str, ...] | None = None
    add_attention: bool = True
    block_out_channels: tuple[int, ...] = (64, 96, 128)
    layers_per_block: int = 1
    dropout: float = 0.0
    act_fn: str = "silu"
    attention_type: str = "attention"
    attention_head_dim: int | None = 8
    norm_num_groups: int = 8
    norm_eps: float = 1e-5
    norm_type: str = "group"
    class_embed_type: str | None = None
    num_class_embeds: int | None = None
    cross_attention_dim: int | None = None
    text_encoder_config: dict[str, Any] | None = None
    patch_size: int = 1
    block_type: str = "second_order"
    field_type: str = "relaxation"
    initial_velocity: str = "features"
    num_solver_steps: int = 2
    integration_time: float | None = None
    method: str = "kick_drift"
    gradient: str = "reversible"
    solver_rtol: float = 1e-3
    solver_atol: float = 1e-4
    field_channels: tuple[int | None, ...] | None = None
    time_proj_channels: int | None = None
    next_timestep_embedding: bool = False
    elastic_depth: bool = False


if TYPE_CHECKING:

    class SavedConfig(Settings, dict[str, Any]):
        """The type of `unet.config`: diffusers' frozen dictionary, whose entries are attributes as well."""


@dataclass(frozen=True)
class UNetConfig(Settings):
    """The settings of a U-Net, what follows from them, and their checks.

    Raises:
        ValueError: for settings that do not fit together, by name.
    """

    factorised: bool = False
    """Whether convolutions of three dimensions are one over space and one over time."""
    downsample_frames: bool = True
    """Whether the first of three axes, time, is halved from level to level like the others."""

    @property
    def levels(self) -> int:
        return len(self.block_out_channels)

    @property
    def size_multiple(self) -> int:
        """The number that each side of a sample must be a multiple of."""
        return self.patch_size * 2 ** (self.levels - 1)

    def kept_axes(self, dim: int) -> int:
        """Returns how many of the first axes of a sample keep their size on all levels."""
        return 1 if dim == 3 and not self.downsample_frames else 0

    def size_multiples(self, dim: int) -> tuple[int, ...]:
        """Returns the numbers that the sides of a sample must be multiples of."""
        kept = self.kept_axes(dim)
        return (1,) * kept + (self.size_multiple,) * (dim - kept)

    @property
    def down_attention(self) -> tuple[bool, ...]:
        """Whether each level has attention on the way down."""
        kinds = self.down_block_types
        return (False,) * self.levels if kinds is None else tuple("Attn" in kind for kind in kinds)

    @property
    def up_attention(self) -> tuple[bool, ...]:
        """Whether each level has attention on the way up, from the lowest resolution to the highest."""
        kinds = self.up_block_types
        return self.down_attention[::-1] if kinds is None else tuple("Attn" in kind for kind in kinds)

    @property
    def mid_attention(self) -> bool:
        """Whether the middle block has attention."""
        return self.mid_block_type is not None and self.add_attention

    @property
    def emb_channels(self) -> int:
        """The width E of the embedding."""
        return self.time_embedding_dim or self.block_out_channels[0] * 4

    @property
    def proj_channels(self) -> int:
        """The number of sines and cosines that the timestep embedding starts from."""
        return self.time_proj_channels or self.block_out_channels[0]

    @property
    def solver(self) -> SolverConfig:
        horizon = float(self.num_solver_steps) if self.integration_time is None else self.integration_time
        return SolverConfig(
            self.num_solver_steps, horizon, self.method, self.gradient, self.solver_rtol, self.solver_atol
        )

    @property
    def text(self) -> TextEncoderConfig | None:
        """The settings of the built-in text encoder, if the model has one."""
        return None if self.text_encoder_config is None else TextEncoderConfig.of(self.text_encoder_config)

    def field(self, level: int, dim: int) -> FieldConfig:
        """Returns the settings of the fields of one level."""
        return FieldConfig(
            channels=self.block_out_channels[level],
            emb_channels=self.emb_channels,
            horizon=self.solver.horizon,
            norm_num_groups=self.norm_num_groups,
            norm_eps=self.norm_eps,
            act_fn=self.act_fn,
            dropout=self.dropout,
            norm_type=self.norm_type,
            hidden_channels=None if self.field_channels is None else self.field_channels[level],
            dim=dim,
            factorised=self.factorised,
        )

    def __post_init__(self) -> None:
        for name in ("in_channels", "out_channels", "layers_per_block", "patch_size", "norm_num_groups"):
            _check_positive(name, getattr(self, name))
        for name in (
            "num_class_embeds",
            "attention_head_dim",
            "time_embedding_dim",
            "time_proj_channels",
            "cross_attention_dim",
        ):
            if getattr(self, name) is not None:
                _check_positive(name, getattr(self, name))
        self._check_levels()
        if self.text is not None and self.text.width != self.cross_attention_dim:
            raise ValueError(
                f"cross_attention_dim={self.cross_attention_dim} must be the width of text_encoder_config, "
                f"{self.text.width}"
            )
        for name, allowed in _CHOICES.items():
            _check_choice(name, getattr(self, name), allowed)
        for name in ("freq_shift", "norm_eps"):
            _check_number(name, getattr(self, name))
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout!r} must lie in [0, 1)")
        if self.sample_size is not None:
            sides = (self.sample_size,) if isinstance(self.sample_size, int) else tuple(self.sample_size)
            check_size("sample_size", sides, self.size_multiples(len(sides)))
        BLOCKS[self.block_type].check(self.field_type, self.solver.method, self.solver.gradient)
        check_elastic(self.elastic_depth, self.method)

    def _check_levels(self) -> None:
        widths, groups = self.block_out_channels, self.norm_num_groups
        if not widths:
            raise ValueError("block_out_channels=() must hold at least one width")
        for name in ("field_channels", "down_block_types", "up_block_types"):
            values = getattr(self, name)
            if values is not None and len(values) != self.levels:
                raise ValueError(
                    f"{name} has {len(values)} entries and block_out_channels {self.levels}: give one per level"
                )
        for name in ("block_out_channels", "field_channels"):
            for width in getattr(self, name) or ():
                if width is not None:
                    _check_positive(f"{name}: width", width)
                    if width % groups:
                        raise ValueError(f"norm_num_groups={groups} does not divide the width {width} of {name}")
        for kind in self.down_block_types or ():
            _check_choice("down_block_types: type", kind, DOWN_BLOCK_TYPES)
        for kind in self.up_block_types or ():
            _check_choice("up_block_types: type", kind, UP_BLOCK_TYPES)
        with_attention = (*self.down_attention, *self.up_attention[::-1], self.mid_attention)
        if self.attention_type != "attention":
            if not any(with_attention):
                raise ValueError(
                    f"attention_type={self.attention_type!r} takes the place of attention, and this model has none: "
                    "set add_attention, or choose levels by down_block_types"
                )
            with_attention = (False,) * len(with_attention)  # they have no heads
        with_attention = (*with_attention[:-1], with_attention[-1] or self.cross_attention_dim is not None)
        for width, attention in zip((*widths, *widths, widths[-1]), with_attention, strict=True):
            if attention and width % (self.attention_head_dim or width):
                raise ValueError(f"attention_head_dim={self.attention_head_dim} does not divide the width {width}")


_CHOICES: dict[str, Collection[str | None]] = {
    "attention_type": ("attention", *MIXINGS),
    "norm_type": NORM_TYPES,
    "block_type": BLOCKS,
    "field_type": FIELDS,
    "initial_velocity": INITIAL_VELOCITIES,
    "mid_block_type": ("UNetMidBlock2D", None),
    "class_embed_type": ("timestep", "identity", None),
}


def check_elastic(elastic_depth: bool, method: str) -> None:
    """Raises ValueError for a model that is given the length of its solver steps, where a method chooses it."""
    if elastic_depth and method in ADAPTIVE_METHODS:
        raise ValueError(
            f"elastic_depth=True is for solver steps of equal length, and method={method!r} chooses its own; use a "
            "method of fixed steps"
        )


def _check_choice(name: str, value: object, allowed: Collection[str | None]) -> None:
    if value not in allowed:
        raise ValueError(f"{name}={value!r} is unknown; expected one of {', '.join(map(str, allowed))}")


def _check_positive(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name}={value!r} must be an integer of at least 1")


def _check_number(name: str, value: object) -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"{name}={value!r} must be a finite number")


def check_size(name: str, sides: tuple[int, ...], multiples: tuple[int, ...]) -> None:
    """Raises ValueError, with the nearest sizes that fit, if a side is not a multiple of its number."""
    if not any(side % multiple for side, multiple in zip(sides, multiples, strict=True)):
        return

    def nearest(side: int, multiple: int) -> str:
        below = side // multiple * multiple
        return f"{side}" if side == below else f"{below or multiple} or {below + multiple}"

    needed = f"{multiples[0]}" if len(set(multiples)) == 1 else " by ".join(map(str, multiples))
    raise ValueError(
        f"{name} is {'x'.join(map(str, sides))}; this model needs multiples of {needed} (nearest: "
        f"{' by '.join(map(nearest, sides, multiples))}): pad or resize, or use fewer levels"
    )


RETIRED: Values = {"read_velocity": False, "initial_decay": 0.5}
"""Settings of version 0.1.0 that were removed, with their default value, which loads without a note."""
RETIRED_VELOCITIES = ("carried", "skips", "zero")
OF_UNET2D: Values = {
    "time_embedding_type": "positional",
    "mid_block_scale_factor": 1,
    "downsample_padding": 1,
    "downsample_type": "conv",
    "upsample_type": "conv",
    "attn_norm_num_groups": None,
    "resnet_time_scale_shift": "default",
    "num_train_timesteps": None,
}
"""Settings of `UNet2DModel` that have no counterpart here, with their defaults."""


def without_foreign(settings: Values) -> dict[str, Any]:
    """Drops retired settings and those of `UNet2DModel` that have no counterpart here.

    Raises:
        ValueError: if one has another value than its default, by name.
    """
    for name, value in settings.items():
        if value != OF_UNET2D.get(name, value):
            raise ValueError(
                f"{name}={value!r} is a setting of UNet2DModel without a counterpart here; only its default, "
                f"{OF_UNET2D[name]!r}, is accepted"
            )
        if value != RETIRED.get(name, value) or (name == "initial_velocity" and value in RETIRED_VELOCITIES):
            raise ValueError(
                f"{name}={value!r} was removed after version 0.1.0, because it measured no better; use that version "
                "for this model"
            )
    return {name: value for name, value in settings.items() if name not in {**OF_UNET2D, **RETIRED}}


def pick(settings: Values) -> UNetConfig:
    """Returns the configuration among the entries of a mapping; lists, as in JSON, become tuples."""
    names = [field.name for field in fields(UNetConfig) if field.name in settings]  # some are for some dimensions only
    values = {name: settings[name] for name in names}
    tuples: Values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    return UNetConfig(**tuples)
