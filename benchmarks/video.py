"""Video: the memory of a training step, and ours beside a discrete 3-D U-Net and the weight-tied control.

    python benchmarks/video.py memory                   # rows to results/video-memory.csv, half a minute
    python benchmarks/video.py compare --folder FOLDER  # rows to results/video.csv, half an hour on one thread; resumes

The comparison trains three models alike on clips of a moving digit, 8 frames of 16x16: ours (preset `clips`), the same
model with plain residual updates instead of an ODE (the control), and a discrete U-Net of diffusers' 3-D blocks, whose
width is cut to the same number of multiply-accumulates (MACs). It measures the loss on clips that were held out, and
the frame-wise FID of new clips. Its features are those of a classifier that tells quarter turns of the frames apart, so
the distances compare these models with each other and with real clips, and with nothing else.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_3d_blocks import DownBlock3D, UpBlock3D
from diffusers.models.unets.unet_3d_condition import UNet3DConditionOutput
from rows import replace_rows, write
from torch import Tensor, nn
from torch.utils.data import Dataset

import continuous_unet
from continuous_unet.base.options import read_layer
from continuous_unet.evaluation.costs.macs import count_macs
from continuous_unet.evaluation.costs.memory import peak_memory, saved_bytes
from continuous_unet.evaluation.quality.extractors import Preparation
from continuous_unet.evaluation.quality.extractors.classifier import Classifier
from continuous_unet.evaluation.quality.generation import distances
from continuous_unet.images.animations import save_clips
from continuous_unet.images.ranges import to_model_range
from continuous_unet.models.build import UNETS, build_unet
from continuous_unet.models.presets import PRESETS
from continuous_unet.tasks.generate.pipeline import choose_sampler, generate
from continuous_unet.tasks.video.pipeline import load_video
from continuous_unet.training import TrainConfig, train
from continuous_unet.training.config import recorded
from continuous_unet.training.run import make_task
from continuous_unet.training.validation import measure_errors

RESULTS = Path(__file__).parent / "results"
SIZE, BATCH = (8, 32, 32), 4
"""Frames, height and width of a clip, and number of clips, where memory is measured."""
FRAMES, SIDE, HELD_OUT = 8, 16, 128
EXTRACTOR_STEPS = 600


class DiscreteUNet3D(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """A U-Net of the blocks of diffusers' `UNet3DConditionModel`, without its texts and its attention.

    Each layer is a residual block on single frames, followed by a temporal one.
    """

    dim = 3

    @register_to_config
    def __init__(
        self,
        sample_size: tuple[int, ...] = (FRAMES, SIDE, SIDE),
        in_channels: int = 1,
        out_channels: int = 1,
        block_out_channels: tuple[int, ...] = (16, 32, 64),
        layers_per_block: int = 1,
        norm_num_groups: int = 8,
        num_class_embeds: int | None = None,
        class_embed_type: str | None = None,
    ) -> None:
        super().__init__()
        widths = tuple(block_out_channels)
        embedding = 4 * widths[0]
        common: Any = {"temb_channels": embedding, "resnet_groups": norm_num_groups}
        self.time_proj = Timesteps(widths[0], True, 0)
        self.time_embedding = TimestepEmbedding(widths[0], embedding)
        self.conv_in = nn.Conv2d(in_channels, widths[0], 3, padding=1)
        pairs, last = list(zip((widths[0], *widths[:-1]), widths, strict=True)), len(widths) - 1
        self.down_blocks = nn.ModuleList(
            DownBlock3D(taken, given, num_layers=layers_per_block, add_downsample=level < last, **common)
            for level, (taken, given) in enumerate(pairs)
        )
        self.up_blocks = nn.ModuleList(
            UpBlock3D(
                in_channels=taken,
                prev_output_channel=widths[min(level + 1, last)],
                out_channels=given,
                num_layers=layers_per_block + 1,
                add_upsample=level > 0,
                **common,
            )
            for level, (taken, given) in reversed(list(enumerate(pairs)))
        )
        self.conv_norm_out = nn.GroupNorm(norm_num_groups, widths[0])
        self.conv_out = nn.Conv2d(widths[0], out_channels, 3, padding=1)

    def forward(self, sample: Tensor, timestep: Tensor | float, return_dict: bool = True) -> Any:
        batch, frames = sample.shape[0], sample.shape[2]
        times = torch.as_tensor(timestep, device=sample.device, dtype=torch.float32).expand(batch)
        embedding = self.time_embedding(self.time_proj(times).to(sample.dtype)).repeat_interleave(frames, dim=0)
        x = self.conv_in(sample.transpose(1, 2).flatten(0, 1))
        skips = [x]
        for block in self.down_blocks:
            x, more = block(x, embedding, num_frames=frames)
            skips += more
        for block in self.up_blocks:
            number = len(block.resnets)
            x = block(x, tuple(skips[-number:]), embedding, num_frames=frames)
            skips = skips[:-number]
        x = self.conv_out(nn.functional.silu(self.conv_norm_out(x)))
        x = x.unflatten(0, (batch, frames)).transpose(1, 2)
        return UNet3DConditionOutput(sample=x) if return_dict else (x,)


DiscreteUNet3D.__module__ = "continuous_unet"
continuous_unet.DiscreteUNet3D = DiscreteUNet3D  # type: ignore[attr-defined]
UNETS["DiscreteUNet3D"] = DiscreteUNet3D  # type: ignore[assignment]
PRESETS["discrete_3d"] = lambda **overrides: overrides

SIDES: dict[str, tuple[str, dict[str, Any]]] = {
    "ours": ("clips", {"gradient": "backprop"}),
    "control": ("clips", {"gradient": "backprop", "block_type": "residual"}),
    "discrete": (
        "discrete_3d",
        {"_class_name": "DiscreteUNet3D", "block_out_channels": [8, 18, 30], "norm_num_groups": 2},
    ),
}
"""Each side's preset and constructor arguments."""


def memory(options: argparse.Namespace) -> None:
    """Measures every mode and number of solver steps in a process of its own."""
    rows = []
    for steps in options.solver_steps:
        for gradient in ("backprop", "checkpoint", "reversible"):
            words = [sys.executable, __file__, "one", gradient, str(steps)]
            found = subprocess.run(words, capture_output=True, text=True, check=True)
            rows.append(json.loads(found.stdout))
            print(rows[-1], flush=True)
    write(options.rows or RESULTS / "video-memory.csv", rows)


def one(options: argparse.Namespace) -> None:
    """Prints what one training step holds, as JSON."""
    torch.set_num_threads(1)
    arguments = {"gradient": options.gradient, "num_solver_steps": options.steps, "in_channels": 1, "out_channels": 1}
    model = build_unet("clips", sample_size=SIZE, **arguments).train()
    sample, timestep = torch.randn(BATCH, 1, *SIZE), torch.full((BATCH,), 500)

    def step() -> None:
        model(sample, timestep).sample.square().mean().backward()

    saved = saved_bytes(lambda: model(sample, timestep).sample, parameters=list(model.parameters())).activations
    peak, how = peak_memory(step, device=torch.device("cpu"))
    row = {
        "model": f"clips, {BATCH} clips of {'x'.join(map(str, SIZE))}",
        "solver_steps": options.steps,
        "gradient": options.gradient,
        "saved_for_backward_bytes": saved,
        "peak_bytes": peak,
        "method": how,
    }
    print(json.dumps(row))


def config_of(side: str, seed: int, output: Path, options: argparse.Namespace) -> TrainConfig:
    """Returns the configuration of a run; all but the model is the same for every side."""
    preset, arguments = SIDES[side]
    return TrainConfig.from_dict(
        {
            "task": "video",
            "data": "moving-digits",
            "frames": FRAMES,
            "preset": preset,
            "model_options": arguments,
            "output": str(output),
            "steps": options.steps,
            "batch_size": options.batch_size,
            "objective": "v_prediction",
            "noise_schedule": "squaredcos_cap_v2",
            "learning_rate": options.learning_rate,
            "lr_warmup_steps": min(100, options.steps),
            "ema_decay": 0.995,
            "num_validation": HELD_OUT,
            "checkpoint_every": 100,
            "validate_every": 100_000,
            "sample_every": 100_000,
            "log_every": 50,
            "seed": seed,
            "device": "cpu",
        }
    )


class FramesOf(Dataset):
    """The frames of clips, as images by number."""

    num_classes = None

    def __init__(self, clips: Any) -> None:
        self.report = clips.report
        first = {number: at for at, (number, _) in reversed(list(enumerate(clips.places)))}
        self.clips = torch.stack([clips[at]["image"] for _, at in sorted(first.items())])
        """One window of each clip, `(N, C, F, H, W)`."""
        self.images = self.clips.transpose(1, 2).flatten(0, 1)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        index = key[1] if isinstance(key, tuple) else key
        return {"image": self.images[index], "index": index}


def extractor_of(folder: Path, training: FramesOf, held_out: FramesOf) -> Classifier:
    """Returns the features of frames, which are learned once for all sides and seeds."""
    path, facts = folder / "features.safetensors", folder / "features.json"
    if not facts.is_file():
        found = Classifier.prepare(
            Preparation(
                data=training,  # type: ignore[arg-type]
                held_out=held_out,  # type: ignore[arg-type]
                path=path,
                device=torch.device("cpu"),
                seed=0,
                steps=EXTRACTOR_STEPS,
            )
        )
        facts.write_text(json.dumps(found))
    return Classifier(path, json.loads(facts.read_text()), torch.device("cpu"))


def features(extractor: Classifier, images: Tensor) -> Tensor:
    """Returns the features of frames in [-1, 1]."""
    return torch.cat([extractor.features(part) for part in images.split(128)])


def compare(options: argparse.Namespace) -> None:
    """Trains and measures every side; what was done before is not done again."""
    torch.set_num_threads(1)
    options.folder.mkdir(parents=True, exist_ok=True)
    table: Path = options.rows or RESULTS / "video.csv"
    for seed in options.seeds:
        for side in options.sides:
            run = options.folder / f"{side}-{seed}"
            print(f"{side}, seed {seed}", flush=True)
            train(config_of(side, seed, run, options), resume=(run / "config.yaml").is_file())
            row = measure(side, seed, run, options)
            print(row, flush=True)
            replace_rows(table, [row], "side", "seed")


def measure(side: str, seed: int, run: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Returns what a trained side costs and reaches."""
    config = recorded(read_layer(TrainConfig, run / "config.yaml"))
    task = make_task(config)
    training, held_out = task.open_data(config.data, config.seed)
    assert held_out is not None
    pipeline: Any = load_video(run)
    unet = pipeline.unet
    errors = measure_errors(task, unet, held_out, seed=0, rounds=2).task
    real, others = FramesOf(held_out), FramesOf(training)
    extractor = extractor_of(options.folder, others, real)
    choose_sampler(pipeline, None, options.sampling_steps)
    made = generate(pipeline, options.clips, seed=0, batch_size=64, num_inference_steps=options.sampling_steps)
    clips = torch.cat(list(made))
    save_clips(clips[:16], [run / "clips.gif"])
    rounded = to_model_range((clips * 255).round() / 255)
    fake = features(extractor, rounded.transpose(1, 2).flatten(0, 1))
    true, more = features(extractor, real.images), features(extractor, others.images[: len(real)])
    return {
        "side": side,
        "seed": seed,
        "parameters": sum(p.numel() for p in unet.parameters()),
        "macs": count_macs(unet, torch.zeros(1, 1, FRAMES, SIDE, SIDE), 5).macs,
        "training_steps": config.steps,
        "learning_rate": options.learning_rate,
        "validation_loss": float(errors.mean()),
        "clips": len(clips),
        "sampling_steps": options.sampling_steps,
        "frame_fid": distances(true, fake).fid,
        "frame_fid_of_real": distances(true, more).fid,
    }


def costs(options: argparse.Namespace) -> None:
    """Prints parameters and MACs of every side."""
    for side, (preset, arguments) in SIDES.items():
        chosen = {"_class_name": "ContinuousUNet3DModel", **PRESETS[preset](), **arguments}
        unet: Any = UNETS[chosen.pop("_class_name")]
        model = unet(sample_size=(FRAMES, SIDE, SIDE), in_channels=1, out_channels=1, **chosen).eval()
        macs = count_macs(model, torch.zeros(1, 1, FRAMES, SIDE, SIDE), 5).macs
        print(f"{side:9} {sum(p.numel() for p in model.parameters()):10,} parameters {macs / 1e6:8.2f} M MACs")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    measured = verbs.add_parser("memory")
    measured.add_argument("--solver-steps", type=int, nargs="+", default=[1, 2, 4, 8])
    measured.add_argument("--rows", type=Path)
    measured.set_defaults(call=memory)
    single = verbs.add_parser("one")
    single.add_argument("gradient")
    single.add_argument("steps", type=int)
    single.set_defaults(call=one)
    verbs.add_parser("costs").set_defaults(call=costs)
    compared = verbs.add_parser("compare")
    compared.add_argument("--folder", type=Path, required=True, help="where the runs are kept")
    compared.add_argument("--sides", nargs="+", choices=tuple(SIDES), default=list(SIDES))
    compared.add_argument("--seeds", type=int, nargs="+", default=[0])
    compared.add_argument("--steps", type=int, default=1000, help="number of training steps")
    compared.add_argument("--batch-size", type=int, default=16)
    compared.add_argument("--learning-rate", type=float, default=2e-3)
    compared.add_argument("--clips", type=int, default=128, help="number of new clips to measure")
    compared.add_argument("--sampling-steps", type=int, default=20)
    compared.add_argument("--rows", type=Path)
    compared.set_defaults(call=compare)
    options = parser.parse_args()
    options.call(options)


if __name__ == "__main__":
    main()
