"""Trains a planner on windows of episodes."""

from collections.abc import Mapping
from itertools import islice
from typing import Any, cast

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from continuous_unet.base.errors import InputError
from continuous_unet.data.options import BUILT_IN
from continuous_unet.data.trajectories.layouts import open_episodes
from continuous_unet.data.trajectories.windows import TrajectoryData
from continuous_unet.models.build import build_unet
from continuous_unet.tasks.base import OwnData, PictureContext, PredictingTask, StepContext
from continuous_unet.tasks.depths import Attempt
from continuous_unet.tasks.facts import Facts
from continuous_unet.tasks.network import Network
from continuous_unet.tasks.plan.facts import PlanFacts
from continuous_unet.tasks.plan.options import PlanTraining
from continuous_unet.tasks.plan.pipeline import PlanningPipeline, load_planner

PICTURE_SIDE, PLANS_OF_EACH = 128, 4


class PlanTask(PredictingTask[PlanTraining]):
    """Learns plans: actions given observations, or trajectories whose start and goal are held."""

    plan: PlanFacts
    """What a plan is; set with the data."""

    @property
    def condition_dropout(self) -> float:
        """The fraction of the trajectories without a goal."""
        return self.options.goal_dropout

    def open_data(self, settings: Any, seed: int) -> OwnData:
        """Returns the windows to train on, and those of the episodes that are held out."""
        chosen = self.options
        if settings.source in BUILT_IN:
            raise InputError(f"--data {settings.source} holds images; --task plan trains on episodes, such as a .npz")
        episodes = open_episodes(settings.source, chosen.observation_keys)
        history = chosen.history if chosen.learn == "actions" else 1
        data = TrajectoryData(episodes, chosen.learn, chosen.horizon, history, seed)
        self.plan = PlanFacts(
            learned=chosen.learn,
            horizon=chosen.horizon,
            scaling=data.scaling,
            num_states=data.num_states,
            history=history,
            observed=data.observed,
        )
        return data.split(settings.num_validation)

    def model_arguments(self, channels: int, preset: str) -> dict[str, Any]:
        arguments = super().model_arguments(channels, preset) | {"_class_name": "ContinuousUNet1DModel"}
        given = self.plan.num_observed
        return arguments | ({"global_cond_dim": given} if given else {})

    def new_model(self, preset: str, arguments: Mapping[str, Any], options: Mapping[str, Any]) -> nn.Module:
        if preset.startswith("ddpm"):
            raise ValueError(f"--preset {preset} is a model of images; choose one of ours, such as planner")
        return build_unet(preset, **{**arguments, **options})

    def start_from(self, name: str) -> tuple[nn.Module, Any]:
        pipeline = load_planner(name)
        if pipeline.plan != self.plan:
            raise InputError(
                f"the planner {name} to start from makes other plans, or its numbers have other limits; give the data, "
                "--learn, --horizon, --history and --observation-keys that it was trained with"
            )
        return cast(nn.Module, pipeline.unet), pipeline.scheduler

    def conditions(
        self, batch: Mapping[str, Any], device: torch.device, draws: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Returns the observations, or what a trajectory must have: 1 where its numbers are held, else 0."""
        if self.plan.learned == "actions":
            return {"global_cond": batch["observation"].to(device)}
        count = len(batch["index"])
        held = torch.zeros(count, len(self.plan.scaling), self.plan.horizon, device=device)
        held[:, : self.plan.num_states, 0] = 1
        with_goal = torch.ones(count, device=device) if draws is None else (draws >= self.condition_dropout).float()
        held[:, : self.plan.num_states, -1] = with_goal[:, None]
        return {"held": held}

    def trial_conditions(self) -> dict[str, Tensor]:
        return {"global_cond": torch.zeros(1, self.plan.num_observed)} if self.plan.num_observed else {}

    def facts(self) -> Facts:
        """Returns what is saved with the model."""
        return Facts(plan=self.plan)

    def attempt(self, step: StepContext) -> Attempt:
        """Returns what the model predicts, and what it should; both are zero where numbers are held."""
        noised = step.process.add_noise(step.clean, step.noise, step.times)
        given = dict(step.conditions)
        held = given.pop("held", None)
        if held is None:
            prediction = step.model(noised.x_t, step.times, **given).sample
            return Attempt(prediction, noised.target, noised.weight)
        x = torch.where(held > 0, step.clean, noised.x_t)
        open_ = (1 - held) * (held[0].numel() / (1 - held).flatten(1).sum(dim=1).clamp(min=1))[:, None, None] ** 0.5
        prediction = step.model(x, step.times, **given).sample
        return Attempt(open_ * prediction, open_ * noised.target, noised.weight)

    def picture(self, context: PictureContext) -> Image.Image:
        """Returns a curve of each plan's first two numbers over those of a held-out one, which is grey."""
        context.processes.check(context.stop)
        pipeline = self.pipeline(context.model)
        shape, items = pipeline.shape, list(islice(context.images, min(self.num_samples, 16)))
        true = shape.restore(np.stack([item["image"].numpy() for item in items]))
        observed, goal = true[:, :1, : shape.num_states], true[:, -1, : shape.num_states]
        if shape.learned == "actions":
            seen = np.stack([item["observation"].numpy() for item in items])
            observed = self.plan.observed.restore(seen.reshape(len(items), self.plan.history, -1))
        made = pipeline(
            observed.repeat(PLANS_OF_EACH, axis=0),
            None if shape.learned == "actions" else goal.repeat(PLANS_OF_EACH, axis=0),
            num_inference_steps=self.sampling_steps,
            seed=self.seed,
        )
        of_each = made.reshape(len(items), PLANS_OF_EACH, *made.shape[1:])
        curves = np.concatenate([true[:, None], of_each], axis=1)
        tiles = [_drawn(shape.normalise(plans)) for plans in curves]
        columns = min(4, len(tiles))
        picture = Image.new("RGB", (columns * PICTURE_SIDE, -(-len(tiles) // columns) * PICTURE_SIDE), "white")
        for number, tile in enumerate(tiles):
            picture.paste(tile, (number % columns * PICTURE_SIDE, number // columns * PICTURE_SIDE))
        return picture

    def pipeline(self, model: Network) -> PlanningPipeline:
        return PlanningPipeline(model, self.process.scheduler, self.facts())

    def usage(self, run: str) -> str:
        return f"cunet plan {run} observation.npz --output plan.npz"


def _drawn(curves: np.ndarray) -> Image.Image:
    """Returns a tile with plans `(N, D, H)` in [-1, 1] as curves in the plane; the first one is grey and thick."""
    tile = Image.new("RGB", (PICTURE_SIDE, PICTURE_SIDE), "white")
    draw = ImageDraw.Draw(tile)
    across = curves[:, 0] if curves.shape[1] > 1 else np.tile(np.linspace(-1, 1, curves.shape[2]), (len(curves), 1))
    up = curves[:, min(1, curves.shape[1] - 1)]
    points = np.clip((np.stack([across, -up], axis=-1) * 0.45 + 0.5) * PICTURE_SIDE, 0, PICTURE_SIDE - 1)
    colours = [(170, 170, 170), (31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40)]
    for number, line in enumerate(points):
        draw.line([tuple(point) for point in line.tolist()], fill=colours[number % 5], width=3 if number == 0 else 1)
    return tile
