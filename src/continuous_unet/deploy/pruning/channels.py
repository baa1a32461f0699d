"""Structured pruning removes whole channels from a trained model, which is then smaller and faster everywhere.

The graph says which channels belong together (torch-pruning's DepGraph, Fang et al., CVPR 2023, arXiv 2301.12900):
position and velocity of a dynamic block share theirs, as do all blocks of a level and the layers that read them. The
importance of a channel is the first-order change of the loss without it, with gradients over the timesteps whose loss
is large enough (Diff-Pruning: Fang et al., NeurIPS 2023, arXiv 2305.10924).
"""

import copy
import math
import warnings
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from continuous_unet.base.errors import InputError
from continuous_unet.base.packages import import_extra
from continuous_unet.diffusion.process import Process
from continuous_unet.models.unet_2d import ContinuousUNet2DModel
from continuous_unet.tasks.base import StepContext
from continuous_unet.tasks.generate.options import GenerateTraining
from continuous_unet.tasks.generate.training import GenerateTask
from continuous_unet.tasks.network import Network

SMALLEST_SHARE_OF_LOSS = 0.05
"""Timesteps with a loss below this fraction of the largest one's are left out: their gradients are mostly noise."""


@dataclass(frozen=True)
class Widths:
    """The number of channels on each level."""

    levels: tuple[int, ...]
    """Channels of the maps."""
    fields: tuple[int, ...]
    """Channels inside the fields."""


def prunable(unet: object) -> ContinuousUNet2DModel:
    """Returns a model that can be pruned; raises InputError with the reason for any other."""
    if not isinstance(unet, ContinuousUNet2DModel):
        raise InputError(
            f"pruning is for continuous U-Nets: the configuration of {type(unet).__name__} ties the timestep's "
            "features to the first width, so a pruned one could not be saved; train a narrower one instead"
        )
    if unet.dim != 2:
        raise InputError(f"pruning is for models of images, and this is a {type(unet).__name__}; train a narrower one")
    if unet.config.block_type == "first_order":
        raise InputError("models with block_type='first_order' are controls for comparisons and cannot be pruned")
    if unet.config.field_type == "gradient" and unet.config.block_type == "second_order":
        raise InputError("models with field_type='gradient' cannot be pruned: their kernels serve twice")
    if unet.config.attention_type != "attention":
        raise InputError(
            f"models with attention_type={unet.config.attention_type!r} cannot be pruned; train a narrower one instead"
        )
    if unet.config.cross_attention_dim is not None:
        raise InputError("models that are conditioned on text cannot be pruned; train a narrower one instead")
    if unet.config.class_embed_type is not None:
        raise InputError(f"models with class_embed_type={unet.config.class_embed_type!r} cannot be pruned")
    return unet


def current_widths(unet: ContinuousUNet2DModel) -> Widths:
    """Returns the widths of a model as it is."""
    stages = _stages(unet)[: len(unet.down_blocks)]
    inner = tuple(stage.blocks[0].field.trunk.out_channels for _, stage in stages)
    return Widths(tuple(unet.config.block_out_channels), inner)


def pruned_widths(unet: ContinuousUNet2DModel, ratio: float) -> Widths:
    """Returns the widths without a fraction `ratio` of the channels, rounded to what norms and attention allow.

    Raises:
        InputError: for a ratio outside of (0, 1), or one that is too small to remove anything.
    """
    if not 0 < ratio < 1:
        raise InputError(f"--ratio {ratio} must lie between 0 and 1: it is the fraction of channels to remove")
    groups = unet.config.norm_num_groups
    widths = current_widths(unet)

    def nearest(width: int, unit: int) -> int:
        return min(width, max(unit, round(width * (1 - ratio) / unit) * unit))

    units = [math.lcm(groups, unet.config.attention_head_dim or 1) if a else groups for a in _attention_levels(unet)]
    smaller = Widths(
        tuple(nearest(width, unit) for width, unit in zip(widths.levels, units, strict=True)),
        tuple(nearest(width, groups) for width in widths.fields),
    )
    if smaller == widths:
        raise InputError(
            f"--ratio {ratio} removes nothing from widths {widths.levels}: norm_num_groups={groups} (and heads of "
            f"{unet.config.attention_head_dim} where there is attention) must divide what is left; give a larger one"
        )
    return smaller


def _attention_levels(unet: ContinuousUNet2DModel) -> list[bool]:
    """Returns for each level whether a stage of its width has attention."""
    with_attention = {level for level, stage in _stages(unet) if stage.attentions is not None}
    return [level in with_attention for level in range(len(unet.down_blocks))]


def _stages(unet: ContinuousUNet2DModel) -> list[tuple[int, Any]]:
    """Returns every stage with the number of its level, whose width it has."""
    last = len(unet.down_blocks) - 1
    stages = [*enumerate(unet.down_blocks), *((last - i, stage) for i, stage in enumerate(unet.up_blocks))]
    return stages if unet.mid_block is None else [*stages, (last, unet.mid_block)]


@dataclass(frozen=True)
class _Root:
    """A layer that is to have fewer output channels; other layers follow if they depend on them."""

    layer: nn.Conv2d | nn.Linear
    keep: int
    groups: int
    """Number of GroupNorm groups, which each lose the same number of channels. 1 if there is no such constraint."""
    whole: int = 1
    """Number of channels that stay or go together: those of an attention head."""


def _roots(unet: Any, widths: Widths) -> list[_Root]:
    levels, groups = len(widths.levels), unet.config.norm_num_groups
    roots = [_Root(unet.conv_in, widths.levels[0], groups)]
    roots += [_Root(conv, widths.levels[i + 1], groups) for i, conv in enumerate(unet.downsamplers)]
    roots += [_Root(merge.conv, widths.levels[levels - 1 - i], groups) for i, merge in enumerate(unet.merges)]
    roots += [_Root(up.conv, widths.levels[levels - 2 - i], 1) for i, up in enumerate(unet.upsamplers)]
    for level, stage in _stages(unet):
        for block in stage.blocks:
            trunk = block.field.trunk
            first = trunk.expand if hasattr(trunk, "expand") else trunk.conv1
            roots.append(_Root(first, widths.fields[level], groups))
        head = unet.config.attention_head_dim or 1
        roots += [_Root(a.to_q, widths.levels[level], 1, head) for a in stage.attentions or ()]
    return roots


def channels_to_drop(scores: Tensor, keep: int, groups: int, whole: int = 1) -> list[int]:
    """Returns the numbers of the `C - keep` least important channels, in order.

    Args:
        scores: importance of each channel, `(C,)`.
        keep: the number of channels to keep, a multiple of `groups` and of `whole`.
        groups: the number of runs of `C / groups` channels; the same number is kept in each.
        whole: the number of channels that stay or go together, by their mean.
    """
    by_unit = scores.reshape(groups, -1, whole).mean(dim=2)
    drop = by_unit.shape[1] - keep // (groups * whole)
    lowest = by_unit.argsort(dim=1, stable=True)[:, :drop]
    numbers = torch.arange(len(scores)).reshape(groups, -1, whole)
    return sorted(numbers[torch.arange(groups)[:, None], lowest].flatten().tolist())


def prune_unet(unet: ContinuousUNet2DModel, widths: Widths, importance: str = "taylor") -> ContinuousUNet2DModel:
    """Returns a new, narrower model with the most important channels of a trained one.

    Args:
        unet: the trained model, which does not change; for `"taylor"`, with gradients from `accumulate_gradients`.
        widths: the widths of the new model, such as those of `pruned_widths`.
        importance: `"taylor"`, or for comparison `"magnitude"` (of the weights) or `"random"`.

    Raises:
        InputError: if torch-pruning is not installed.
    """
    tp = import_extra("torch_pruning", "pruning needs torch-pruning", "prune")
    prunable(unet)
    score = {
        "taylor": tp.importance.GroupTaylorImportance,
        "magnitude": tp.importance.GroupMagnitudeImportance,
        "random": tp.importance.RandomImportance,
    }[importance]()
    config = {name: value for name, value in unet.config.items() if not name.startswith("_")}
    narrow = copy.deepcopy(unet)
    for own, theirs in zip(narrow.parameters(), unet.parameters(), strict=True):
        own.grad = None if theirs.grad is None else theirs.grad.clone()
    # One evaluation of each field, by plain operations: the channels depend on each other as in any number of them.
    narrow.requires_grad_(True).set_solver(num_steps=1, method="reversible_leapfrog", gradient="backprop")
    size = unet.size_multiple
    device = next(narrow.parameters()).device
    sample = torch.randn(2, config["in_channels"], size, size, device=device)
    inputs = {"sample": sample, "timestep": torch.tensor([1, 2], device=device)}
    if narrow.class_embedding is not None:
        inputs["class_labels"] = torch.zeros(2, dtype=torch.long, device=device)
    with warnings.catch_warnings(), torch.enable_grad():  # the graph is read from autograd's
        warnings.simplefilter("ignore")  # they concern tensors that are no parameters
        graph = tp.DependencyGraph().build_dependency(narrow, inputs, output_transform=lambda output: output.sample)
    chosen = []
    for root in _roots(narrow, widths):
        prune = graph.get_pruner_of_module(root.layer).prune_out_channels
        count = root.layer.weight.shape[0]
        scores = score(graph.get_pruning_group(root.layer, prune, list(range(count)))).cpu()
        drop = channels_to_drop(scores, root.keep, root.groups, root.whole)
        if drop:
            chosen.append((root.layer, prune, drop))
    for layer, prune, drop in chosen:  # after all are ranked: the ranking is of the whole model
        graph.get_pruning_group(layer, prune, drop).prune()

    config |= {
        "block_out_channels": widths.levels,
        "field_channels": widths.fields,
        "time_embedding_dim": unet.time_embedding.linear_1.out_features,
        "time_proj_channels": unet.time_proj.num_channels,
    }
    result = ContinuousUNet2DModel(**config)
    result.load_state_dict({name: tensor.detach() for name, tensor in narrow.state_dict().items()})
    return result.to(device).train(unet.training)


def accumulate_gradients(
    unet: nn.Module,
    process: Process,
    batch: dict[str, Tensor],
    *,
    batch_size: int = 32,
    share: float = SMALLEST_SHARE_OF_LOSS,
) -> list[int]:
    """Sums the gradients of the loss over timesteps into `parameter.grad`, as Diff-Pruning does.

    A timestep counts if its loss is at least `share` of the largest one's (arXiv 2305.10924, section 3.3).

    Args:
        unet: the trained model; its gradients are replaced.
        process: the noise process.
        batch: the result of `noised_images`; neighbouring timesteps are taken together.
        batch_size: the number of images in one pass.
        share: the smallest loss that counts, as a fraction of the largest; 0 takes every timestep.

    Returns:
        The smallest and the largest timestep of each part that counted, one after the other.
    """
    device = next(unet.parameters()).device
    order = batch["timestep"].argsort(stable=True)
    labels = batch.get("class_labels")
    task, network = GenerateTask(GenerateTraining(), process), cast(Network, unet)

    def loss(part: Tensor) -> Tensor:
        clean, noise, timestep = (batch[name][part].to(device) for name in ("clean", "noise", "timestep"))
        conditions = {} if labels is None else {"class_labels": labels[part].to(device)}
        return task.error(StepContext(network, process, clean, noise, timestep, conditions)).mean()

    parts = order.split(batch_size)
    with torch.no_grad():
        losses = [float(loss(part)) for part in parts]
    unet.zero_grad(set_to_none=True)
    counted: list[int] = []
    for part, value in zip(parts, losses, strict=True):
        if value >= share * max(losses):
            loss(part).backward()
            counted += [int(batch["timestep"][part[0]]), int(batch["timestep"][part[-1]])]
    return counted
