"""Pieces that train: a side at 64x64, or a restoration model. They go on where they were cut off."""

import shutil
import time
from pathlib import Path
from typing import Any

import torch
from carried import carry, unpack
from pieces import Piece, side
from PIL import Image
from safetensors.torch import save_file

from continuous_unet.base.signals import StopRequest
from continuous_unet.training import TrainConfig, train

MOST_BYTES = 16 * 2**20
EVERY = 60.0
"""Seconds between two states that are written for another machine."""


class UntilThen(StopRequest):
    """Asks to stop when a time has come."""

    def __init__(self, then: float) -> None:
        super().__init__()
        self.then = then

    @property
    def signal(self) -> int | None:  # type: ignore[override]
        return 15 if time.monotonic() >= self.then else None

    @signal.setter
    def signal(self, value: int | None) -> None:
        pass


def config_of(piece: Piece, run: Path) -> TrainConfig:
    """Returns the configuration of a run."""
    options, on_gpu = piece.options, piece.device.type == "cuda"
    rarely = {name: 10**9 for name in ("validate_every", "sample_every", "checkpoint_every")}
    return TrainConfig.from_dict(
        {
            "data": piece.data,
            "output": str(run),
            "device": piece.device.type,
            "mixed_precision": "bf16" if on_gpu else "no",
            "random_flip": True,
            "num_validation": 512,
            "log_every": 50,
            **rarely,
            **({} if options.get("task") else side(options["side"])),
            **options.get("training", {}),
            **({"task": options["task"]} if options.get("task") else {}),
        }
    )


def go_on(piece: Piece, reserve: float) -> tuple[TrainConfig, bool]:
    """Trains until the end of the run, or `reserve` seconds before that of the piece; returns whether it is finished.

    A state for other machines is left in the folder now and then, as long as the run is not finished.
    """
    run, kept = piece.scratch / "run", piece.folder / "carried"
    config = config_of(piece, run)
    resume = (run / "checkpoints").is_dir()
    if not resume and kept.is_dir():
        unpack(kept, run)
        config = config.replaced(**TrainConfig.load(run / "config.yaml").replaced(output=str(run)).flat())
        config, resume = config.replaced(data=piece.data, device=piece.device.type), True
    while True:
        left = piece.left() - reserve
        if left <= 0:
            return config, False
        stop = UntilThen(time.monotonic() + min(EVERY, left))
        result = train(config, resume=resume, stop=stop)
        if result.stopped_by is None:
            shutil.rmtree(kept, ignore_errors=True)
            return config, True
        resume = True
        carry(run, kept)


def keep_weights(piece: Piece, run: Path) -> None:
    """Keeps the averaged weights in half precision, if they are not too large."""
    from safetensors.torch import load_file

    found = sorted((run / "model").rglob("*.safetensors"))
    if len(found) != 1:
        return
    half = {name: tensor.half().contiguous() for name, tensor in load_file(found[0]).items()}
    if sum(tensor.numel() * 2 for tensor in half.values()) < MOST_BYTES - 2**16:
        save_file(half, piece.folder / "weights.safetensors")
        shutil.copy(found[0].with_name("config.json"), piece.folder / "config.json")


def generate(piece: Piece) -> bool:
    """Trains a side; writes loss by noise level, sample grids, and FID by number of sampling steps."""
    options = piece.options
    config, finished = go_on(piece, options.get("reserve", 60))
    run = Path(config.output)
    if not (run / "model").is_dir():
        return False
    keep_weights(piece, run)
    seen = _last(run)
    losses(piece, config, seen)
    if not finished and not options.get("evaluate_unfinished", True):
        return False
    distances(piece, run, seen)
    return finished


def _last(run: Path) -> dict[str, Any]:
    import json

    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    last = [line for line in lines if "loss" in line][-1:]
    names = ("step", "images_seen", "loss", "images_per_second", "seconds", "learning_rate")
    return {name: last[0].get(name) for name in names} if last else {}


def losses(piece: Piece, config: TrainConfig, seen: dict[str, Any]) -> None:
    """Writes the validation loss by band of noise."""
    from continuous_unet.base.processes import Processes
    from continuous_unet.tasks.loading import load_pipeline
    from continuous_unet.training.run import make_task, open_data
    from continuous_unet.training.validation import measure_errors

    task = make_task(config)
    _, held_out = open_data(config, task, Processes())
    pipeline = load_pipeline(config.output, device=piece.device)
    if held_out is None:
        return
    errors, _, times = measure_errors(task, pipeline.unet, held_out, seed=0, rounds=piece.options.get("rounds", 4))
    bands = (times * 8 / task.process.num_train_timesteps).long().clamp(0, 7)
    by_band = {f"band_{k + 1}": float(errors[bands == k].mean()) for k in range(8) if bool((bands == k).any())}
    piece.write({**seen, "validation_loss": float(errors.mean()), **by_band}, "losses")


def distances(piece: Piece, run: Path, seen: dict[str, Any]) -> None:
    """Writes a grid and the FID for each number of sampling steps, as long as there is time."""
    from continuous_unet.evaluation.options import EvaluateGenerateOptions
    from continuous_unet.evaluation.quality.run import evaluate_generation
    from continuous_unet.tasks.generate.options import SampleOptions
    from continuous_unet.tasks.generate.run import sample_images

    for steps in piece.options.get("sampling_steps", []):
        if piece.left() < 10:
            return
        grid = piece.folder / f"samples-{steps:02d}-{seen.get('step', 0)}.png"
        common = {"model": str(run), "device": piece.device.type}
        sample_images(SampleOptions(**common, output=str(grid), num=16, steps=steps, seed=1, overwrite=True))
        with Image.open(grid) as image:
            image.convert("RGB").save(grid.with_suffix(".jpg"), quality=88)
        grid.unlink()
        if not piece.options.get("num_samples") or piece.left() < 15:
            continue
        options = EvaluateGenerateOptions(
            data=piece.options.get("real", piece.data),
            model=[str(run)],
            num=piece.options["num_samples"],
            sampling_steps=[steps],
            extractor=piece.options.get("extractor", "auto"),
            extractor_steps=piece.options.get("extractor_steps", 1500),
            device=piece.device.type,
        )
        found = evaluate_generation(options, stop=UntilThen(piece.deadline))
        for row in found.rows:
            piece.write({**seen, **row, "extractor": found.extractor}, "fid")


def restore(piece: Piece) -> bool:
    """Trains a restoration model, and writes the PSNR of its validation."""
    import json

    config, finished = go_on(piece, piece.options.get("reserve", 20))
    run = Path(config.output)
    if (run / "model").is_dir():
        keep_weights(piece, run)
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        for line in lines:
            if "validation_psnr" in line and not piece.has(step=line["step"]):
                wanted = ("step", "images_seen", "seconds", "validation_loss", "validation_psnr")
                piece.write({name: line[name] for name in wanted})
        for picture in sorted((run / "samples").glob("*.png"))[-1:]:
            with Image.open(picture) as image:
                image.convert("RGB").save(piece.folder / "restored.jpg", quality=88)
    torch.cuda.empty_cache()
    return finished
