"""Planning in a point maze: ours, the 1-D U-Net of Diffusion Policy, and that U-Net cut to our cost.

    python benchmarks/planning.py demos --folder FOLDER                 # demonstrations of a scripted expert
    python benchmarks/planning.py train SIDE --folder FOLDER --seed 0   # SIDE: ours, large or cut; stops and resumes
    python benchmarks/planning.py measure SIDE --folder FOLDER --seed 0 # rows to results/planning.csv

The environment is `PointMaze_UMaze-v3` of gymnasium-robotics (pip install 'continuous-unet[maze]'). A ball is pushed
by a force in the plane, from a random cell to another, through a maze. The expert follows the shortest path of cells
with a PD controller, and its force is disturbed while it is recorded. An episode succeeds if the ball reaches the
target in 200 time steps of 0.01 s. All sides are trained alike by flow matching, and sampled by Euler's method. Each is
trained with the same learning rates (--learning-rate 3e-4 and 1e-3), and the better one counts in the table.
"""

import argparse
import time
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_1d import UNet1DOutput
from rows import replace_rows
from torch import Tensor, nn

import continuous_unet
from continuous_unet.base.options import read_layer
from continuous_unet.data.trajectories.episodes import Episodes
from continuous_unet.deploy.export import export
from continuous_unet.deploy.options import ExportOptions
from continuous_unet.deploy.standalone.policy import Policy as ExportedPolicy
from continuous_unet.models.build import UNETS
from continuous_unet.models.presets import PRESETS
from continuous_unet.tasks.plan.pipeline import load_planner
from continuous_unet.tasks.plan.policy import Policy
from continuous_unet.training import TrainConfig, train
from continuous_unet.training.config import recorded

RESULTS = Path(__file__).parent / "results" / "planning.csv"
MAZE, MOST_STEPS = "PointMaze_UMaze-v3", 200
DEMOS, AFTER = 300, 20
"""Number of demonstrations, and of the time steps that each goes on after it has reached its target."""
DISTURBANCE = 0.3
"""Standard deviation of the noise that is added to the expert's force, and not recorded."""
HORIZON, HISTORY, EXECUTE, EVALUATIONS = 16, 2, 8, 4
RATES = (3e-4, 1e-3)
"""The learning rates that every side is trained with."""
FIRST_EPISODE = 100_000
"""The seed of the first episode that is measured; demonstrations have the seeds from 0."""


class ConvBlock(nn.Sequential):
    """Convolution, norm and activation."""

    def __init__(self, taken: int, given: int, kernel: int, groups: int) -> None:
        super().__init__(nn.Conv1d(taken, given, kernel, padding=kernel // 2), nn.GroupNorm(groups, given), nn.Mish())


class ConditionalBlock(nn.Module):
    """A residual block whose features are scaled and shifted by the condition (FiLM), as in Diffusion Policy."""

    def __init__(self, taken: int, given: int, condition: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.first = ConvBlock(taken, given, kernel, groups)
        self.second = ConvBlock(given, given, kernel, groups)
        self.film = nn.Sequential(nn.Mish(), nn.Linear(condition, 2 * given))
        self.skip = nn.Conv1d(taken, given, 1) if taken != given else nn.Identity()

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.film(condition)[:, :, None].chunk(2, dim=1)
        out: Tensor = self.second(scale * self.first(x) + shift) + self.skip(x)
        return out


class DiffusionPolicyUNet(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """The conditional 1-D U-Net of Diffusion Policy (arXiv 2303.04137), with its usual widths and kernel by default."""

    @register_to_config
    def __init__(
        self,
        in_channels: int = 2,
        out_channels: int = 2,
        sample_size: int = 16,
        global_cond_dim: int = 12,
        block_out_channels: tuple[int, ...] = (256, 512, 1024),
        kernel_size: int = 5,
        norm_num_groups: int = 8,
        embedding: int = 256,
        num_class_embeds: int | None = None,
    ) -> None:
        super().__init__()
        widths = tuple(block_out_channels)
        condition = embedding + global_cond_dim

        def block(taken: int, given: int) -> ConditionalBlock:
            return ConditionalBlock(taken, given, condition, kernel_size, norm_num_groups)

        self.time_proj = Timesteps(embedding, True, 0)
        self.time_embedding = TimestepEmbedding(embedding, 4 * embedding, act_fn="mish", out_dim=embedding)
        pairs = list(zip((in_channels, *widths[:-1]), widths, strict=True))
        self.down = nn.ModuleList([nn.ModuleList([block(a, b), block(b, b)]) for a, b in pairs])
        self.shrink = nn.ModuleList([nn.Conv1d(b, b, 3, stride=2, padding=1) for _, b in pairs[:-1]])
        self.middle = nn.ModuleList([block(widths[-1], widths[-1]) for _ in range(2)])
        self.up = nn.ModuleList([nn.ModuleList([block(2 * b, a), block(a, a)]) for a, b in reversed(pairs[1:])])
        self.grow = nn.ModuleList([nn.ConvTranspose1d(a, a, 4, stride=2, padding=1) for a, _ in reversed(pairs[1:])])
        self.out = nn.Sequential(
            ConvBlock(widths[0], widths[0], kernel_size, norm_num_groups), nn.Conv1d(widths[0], out_channels, 1)
        )

    def forward(
        self, sample: Tensor, timestep: Tensor | float, global_cond: Tensor | None = None, return_dict: bool = True
    ) -> Any:
        times = torch.as_tensor(timestep, device=sample.device, dtype=torch.float32).expand(sample.shape[0])
        condition = torch.cat([self.time_embedding(self.time_proj(times)), global_cond], dim=1)
        x, skips = sample, []
        for level, (first, second) in enumerate(self.down):
            x = second(first(x, condition), condition)
            skips.append(x)
            if level < len(self.shrink):
                x = self.shrink[level](x)
        for block in self.middle:
            x = block(x, condition)
        for (first, second), grow in zip(self.up, self.grow, strict=True):
            x = grow(second(first(torch.cat([x, skips.pop()], dim=1), condition), condition))
        x = self.out(x)
        return UNet1DOutput(sample=x) if return_dict else (x,)


DiffusionPolicyUNet.__module__ = "continuous_unet"
continuous_unet.DiffusionPolicyUNet = DiffusionPolicyUNet  # type: ignore[attr-defined]
UNETS["DiffusionPolicyUNet"] = DiffusionPolicyUNet
PRESETS["diffusion_policy"] = lambda **overrides: overrides

SIDES: dict[str, tuple[str, dict[str, Any]]] = {
    "ours": ("planner", {}),
    "large": ("diffusion_policy", {"_class_name": "DiffusionPolicyUNet"}),
    "cut": (
        "diffusion_policy",
        {"_class_name": "DiffusionPolicyUNet", "block_out_channels": [56, 112, 168], "embedding": 128},
    ),
}
"""Each side's preset and constructor arguments."""


class Expert:
    """Follows the shortest path over the cells of the maze with a PD controller."""

    def __init__(self, maze: Any) -> None:
        self.maze = maze
        self.free = np.array([[cell != 1 for cell in row] for row in maze.maze_map])

    def path(self, start: tuple[int, int], goal: tuple[int, int]) -> list[tuple[int, int]]:
        """Returns the cells from one to another, by breadth-first search."""
        before: dict[tuple[int, int], tuple[int, int] | None] = {start: None}
        queue = deque([start])
        while queue:
            cell = queue.popleft()
            for down, right in ((0, 1), (1, 0), (0, -1), (-1, 0)):
                near = cell[0] + down, cell[1] + right
                if self.free[near] and near not in before:
                    before[near] = cell
                    queue.append(near)
        cells, last = [], goal
        while last is not None:
            cells.append(last)
            last = before[last]  # type: ignore[assignment]
        return cells[::-1]

    def __call__(self, seen: dict[str, np.ndarray]) -> np.ndarray:
        place, speed, goal = seen["observation"][:2], seen["observation"][2:], seen["desired_goal"]
        cells = self.path(*(tuple(self.maze.cell_xy_to_rowcol(point)) for point in (place, goal)))
        aim = goal if len(cells) < 2 else self.maze.cell_rowcol_to_xy(np.array(cells[1]))
        return np.clip(10 * (aim - place) - speed, -1, 1).astype(np.float32)


def make_maze() -> Any:
    """Returns the environment, in which the target stays where it is when it has been reached."""
    import gymnasium
    import gymnasium_robotics

    gymnasium.register_envs(gymnasium_robotics)
    return gymnasium.make(MAZE, max_episode_steps=10_000, continuing_task=True, reset_target=False)


def observation(seen: dict[str, np.ndarray]) -> np.ndarray:
    """Returns what a policy is given: place, speed and target, `(6,)`."""
    return np.concatenate([seen["observation"], seen["desired_goal"]]).astype(np.float32)


def demos(folder: Path) -> None:
    """Records the expert."""
    env, random = make_maze(), np.random.default_rng(0)
    expert = Expert(env.unwrapped.maze)
    observations, actions, ends = [], [], []
    for number in range(DEMOS):
        seen, _ = env.reset(seed=number)
        left = None
        for _ in range(2 * MOST_STEPS):
            force = expert(seen)
            observations.append(observation(seen))
            actions.append(force)
            disturbed = np.clip(force + DISTURBANCE * random.normal(size=2), -1, 1).astype(np.float32)
            seen, _, _, _, info = env.step(disturbed)
            left = AFTER if left is None and info["success"] else left
            if left is not None:
                left -= 1
                if left < 0:
                    break
        ends.append(len(actions))
    arrays = {"observations": np.array(observations), "actions": np.array(actions)}
    Episodes("demos", arrays, np.array(ends)).save(folder / "demos.npz")
    lengths = np.diff(ends, prepend=0)
    print(f"{DEMOS} demonstrations of {lengths.min()} to {lengths.max()} time steps, {ends[-1]} in all")


def run_folder(folder: Path, side: str, seed: int, learning_rate: float) -> Path:
    return folder / f"{side}-{learning_rate:g}-{seed}"


def train_side(folder: Path, side: str, seed: int, steps: int, batch_size: int, learning_rate: float) -> None:
    """Trains a side, or continues what was stopped."""
    preset, arguments = SIDES[side]
    output = run_folder(folder, side, seed, learning_rate)
    config = TrainConfig.from_dict(
        {
            "task": "plan",
            "data": str(folder / "demos.npz"),
            "horizon": HORIZON,
            "history": HISTORY,
            "process": "flow",
            "preset": preset,
            "model_options": arguments,
            "output": str(output),
            "steps": steps,
            "batch_size": batch_size,
            "mixed_precision": "bf16",
            "learning_rate": learning_rate,
            "lr_warmup_steps": 50,
            "ema_decay": 0.995,
            "num_validation": 10,
            "checkpoint_every": 100,
            "validate_every": 100_000,
            "sample_every": 100_000,
            "sampling_steps": EVALUATIONS,
            "log_every": 20,
            "seed": seed,
            "device": "cpu",
        }
    )
    print(train(config, resume=(output / "config.yaml").is_file()).to_text())


def successes(policy: Policy, episodes: int) -> tuple[float, float]:
    """Returns the fraction of episodes that reach their target, and their mean number of time steps."""
    envs = [make_maze() for _ in range(episodes)]
    seen = [env.reset(seed=FIRST_EPISODE + k)[0] for k, env in enumerate(envs)]
    reached = np.full(episodes, MOST_STEPS + 1)
    policy.reset()
    for step in range(MOST_STEPS):  # all mazes at once, so that a batch of plans is made at a time
        forces = policy.step(np.stack([observation(one) for one in seen]))
        for k, env in enumerate(envs):
            if reached[k] > MOST_STEPS:
                seen[k], _, _, _, info = env.step(forces[k].clip(-1, 1))
                if info["success"]:
                    reached[k] = step + 1
        if (reached <= MOST_STEPS).all():
            break
    won = reached <= MOST_STEPS
    return float(won.mean()), float(reached[won].mean()) if won.any() else float("nan")


def rate(folder: Path, repeats: int) -> tuple[float, float]:
    """Returns the median and the slowest twentieth of the CPU milliseconds of a plan, in ONNX Runtime on one thread."""
    policy = ExportedPolicy(folder, execute=EXECUTE, steps=EVALUATIONS, threads=1)
    seen, times = np.zeros(policy.planner.shape.taken), []
    for number in range(repeats + 10):
        started = time.process_time()  # of the CPU: others may use the machine at the same time
        policy(seen)
        if number >= 10:
            times.append(time.process_time() - started)
    return float(np.percentile(times, 50)) * 1e3, float(np.percentile(times, 95)) * 1e3


def measure(folder: Path, side: str, seed: int, episodes: int, warm_start: float | None, learning_rate: float) -> None:
    """Measures a side, and puts its row into the results."""
    run = run_folder(folder, side, seed, learning_rate)
    pipeline = load_planner(run)
    policy = Policy(pipeline, execute=EXECUTE, num_inference_steps=EVALUATIONS, warm_start=warm_start, seed=seed)
    fraction, steps = successes(policy, episodes)
    print(f"{side}: {fraction:.1%} of {episodes} episodes, {steps:.0f} time steps on average", flush=True)
    exported = run / "exported"
    export(ExportOptions(model=str(run), output=str(exported), overwrite=True, repeats=0))
    middle, slow = rate(exported, 100)
    row = {
        "side": side,
        "seed": seed,
        "warm_start": "" if warm_start is None else warm_start,
        "learning_rate": learning_rate,
        "parameters": sum(p.numel() for p in pipeline.unet.parameters()),
        "training_steps": recorded(read_layer(TrainConfig, run / "config.yaml")).steps,
        "episodes": episodes,
        "success": fraction,
        "time_steps": steps,
        "evaluations": EVALUATIONS,
        "plan_ms": middle,
        "plan_ms_p95": slow,
        "plans_per_second": 1e3 / middle,
    }
    print(row)
    replace_rows(RESULTS, [row], "side", "seed", "warm_start", "learning_rate")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("demos", "train", "measure"))
    parser.add_argument("side", nargs="?", choices=tuple(SIDES))
    parser.add_argument("--folder", type=Path, required=True, help="where demonstrations and runs are kept")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=300, help="number of training steps")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--warm-start", type=float, default=None)
    parser.add_argument("--learning-rate", type=float, choices=RATES, default=1e-3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.what == "demos":
        demos(options.folder)
    elif options.side is None:
        parser.error("which side?")
    elif options.what == "train":
        train_side(options.folder, options.side, options.seed, options.steps, options.batch_size, options.learning_rate)
    else:
        chosen = options.episodes, options.warm_start, options.learning_rate
        measure(options.folder, options.side, options.seed, *chosen)


if __name__ == "__main__":
    main()
