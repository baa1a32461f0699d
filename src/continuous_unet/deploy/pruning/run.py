"""`prune_model`: a trained model to a narrower one, fine-tuned by the training loop, with what it cost in `prune.json`.

pruned/        the model as pruned            finetuning/    a run of `cunet train` that starts from it
model/         what came out: use the folder like a run's        prune.json    before and after
"""

import dataclasses
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from continuous_unet.base.devices import pick_device
from continuous_unet.base.errors import InputError
from continuous_unet.base.files import replace_folder, replace_text
from continuous_unet.base.randomness import derive_seed
from continuous_unet.data import ImageDataset, train_validation_split
from continuous_unet.deploy.calibration import Origin, noised_images, open_for, origin
from continuous_unet.deploy.pruning.channels import (
    accumulate_gradients,
    check_prunable,
    current_widths,
    prune_unet,
    pruned_widths,
)
from continuous_unet.deploy.pruning.options import REPORT, PruneOptions
from continuous_unet.evaluation import count_macs
from continuous_unet.tasks.generate.pipeline import DiffusionSamplingPipeline
from continuous_unet.tasks.loading import load_pipeline
from continuous_unet.training.config import TrainConfig
from continuous_unet.training.start import start_schedule
from continuous_unet.training.trainer import train
from continuous_unet.training.validation import validation_loss


@dataclass(frozen=True)
class _Held:
    """What models are measured on."""

    images: ImageDataset
    seed: int
    device: torch.device

    def measure(self, pipeline: DiffusionSamplingPipeline) -> dict[str, Any]:
        """Parameters, multiply-accumulates of one image, validation loss, widths."""
        unet = pipeline.unet.eval().to(self.device)
        with_labels = unet.config.num_class_embeds is not None
        sample = torch.zeros_like(self.images[0]["image"], device=self.device)[None]
        labels = torch.zeros(1, dtype=torch.long, device=self.device) if with_labels else None
        with torch.no_grad():
            macs = count_macs(unet, sample, 0, class_labels=labels, strict=True).macs
        losses = validation_loss(
            unet, pipeline.scheduler, self.images, seed=self.seed, with_labels=with_labels, device=self.device
        )
        widths = current_widths(unet)
        return {
            "parameters": unet.num_parameters(),
            "macs": macs,
            "validation_loss": losses["validation_loss"],
            "block_out_channels": list(widths.levels),
            "field_channels": list(widths.fields),
        }


def prune_model(model: str | os.PathLike, options: PruneOptions, resume: bool = False) -> dict[str, Any]:
    """Prune a trained model and fine-tune it.

    SIGINT and SIGTERM end the fine-tuning with a checkpoint (`stopped_by`), from which `resume` goes on.

    Args:
        model: what `load_pipeline` takes. Of a run, how images are cut to size, and which are held out, is taken over.
        options: all settings.
        resume: go on with the fine-tuning in `options.output`; the model's folder is not read again.

    Returns:
        What `prune.json` says: `options`, and parameters, MACs (one image) and validation loss of the model
        `original`, `pruned` and `finetuned`; and `stopped_by`, the number of a signal, or None.

    Raises:
        InputError: for options, models and data that cannot be used, and where torch-pruning is missing.
        TrainingDiverged: as of `train`.
    """
    options.validate()
    folder = Path(options.output)
    if not resume:
        _prune(model, options)
    report = _read_report(folder)
    if report["options"]["steps"] == 0:
        return {**report, "stopped_by": None}
    config, begun = _finetuning(folder, report), folder / "finetuning" / "config.yaml"
    if begun.is_file():  # the folder may have been moved, and with it the model that the run started from
        dataclasses.replace(TrainConfig.load(begun), start_from=config.start_from).save(begun)
    result = train(config, resume=begun.is_file())
    if result.stopped_by is None:
        replace_folder(folder / "model", lambda aside: shutil.copytree(folder / "finetuning" / "model", aside))
        tuned = load_pipeline(folder / "finetuning")
        report["finetuned"] = _held_out(tuned, report).measure(tuned) | {"steps": result.steps}
        replace_text(folder / REPORT, json.dumps(report, indent=1) + "\n")
    return {**report, "stopped_by": result.stopped_by}


def _prune(model: str | os.PathLike, options: PruneOptions) -> None:
    """Everything before the fine-tuning; the folder appears when it is whole, or not at all."""
    target = options.check_output()
    pipeline = load_pipeline(model)
    check_prunable(pipeline.unet)
    widths = pruned_widths(pipeline.unet, options.ratio)
    known = origin(model)
    base = dataclasses.replace(known.config, **start_schedule(pipeline.scheduler))
    if options.seed is not None:
        base = dataclasses.replace(base, seed=options.seed)
    data = open_for(pipeline.unet, options.data, known)
    config = dataclasses.replace(
        base,
        data=options.data,
        output="finetuning",
        start_from="pruned",
        model_options={},
        class_conditional=pipeline.unet.config.num_class_embeds is not None,
        image_size=data.report.image_size,
        channels=data.report.channels,
        num_validation=min(options.num_validation or base.num_validation or 256, len(data) // 2),
        steps=max(1, options.steps),
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        lr_schedule="cosine",
        lr_warmup_steps=min(100, options.steps // 10),
        ema_decay=min(base.ema_decay, 0.999),
        checkpoint_every=options.checkpoint_every,
        validate_every=options.checkpoint_every,
        sample_every=max(1, options.steps),
        device=options.device,
    ).validate()
    report: dict[str, Any] = {
        "model": str(model),
        "smallest_image": known.smallest_image,
        "options": dataclasses.asdict(options),
        "training": config.to_dict(),
    }
    held = _held_out(pipeline, report, data)
    report["original"] = held.measure(pipeline)
    if options.importance == "taylor":
        seen, _ = train_validation_split(data, config.num_validation, config.seed)
        batch = noised_images(
            seen, pipeline.scheduler, options.importance_images, with_labels=config.class_conditional, seed=config.seed
        )
        report["timesteps"] = accumulate_gradients(pipeline.unet, pipeline.scheduler, batch)
    torch.manual_seed(derive_seed("pruning", config.seed))  # importance="random" draws from it
    narrow = DiffusionSamplingPipeline(prune_unet(pipeline.unet, widths, options.importance).eval(), pipeline.scheduler)
    report["pruned"] = held.measure(narrow)

    def write(aside: Path) -> None:
        for name in ("pruned", "model"):
            narrow.save_pretrained(aside / name)
        replace_text(aside / REPORT, json.dumps(report, indent=1) + "\n")

    replace_folder(target, write)


def _held_out(pipeline: DiffusionSamplingPipeline, report: dict[str, Any], data: ImageDataset | None = None) -> _Held:
    config = TrainConfig(**report["training"])
    if data is None:
        data = open_for(pipeline.unet, config.data, Origin(config, report["smallest_image"]))
    _, held_out = train_validation_split(data, config.num_validation, config.seed)
    return _Held(held_out, config.seed, torch.device(pick_device(config.device)))


def _finetuning(folder: Path, report: dict[str, Any]) -> TrainConfig:
    """The run's configuration, with paths from where the folder is now."""
    config = TrainConfig(**report["training"])
    return dataclasses.replace(config, output=str(folder / "finetuning"), start_from=str(folder / "pruned"))


def _read_report(folder: Path) -> dict[str, Any]:
    path = folder / REPORT
    if not path.is_file():
        raise InputError(f"{folder} holds no pruned model to go on with; start without --resume")
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        TrainConfig(**report["training"])
        report["options"]["steps"], report["smallest_image"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({type(error).__name__}); prune again") from error
    return report


def report_text(report: dict[str, Any]) -> str:
    """Before and after, as a table."""
    first = report["original"]
    lines = [f"{'':12}{'parameters':>20}{'MACs':>22}{'validation loss':>18}  widths / inside fields"]
    for name in ("original", "pruned", "finetuned"):
        if name in report:
            row = report[name]
            cells = [f"{row[k]:,} ({row[k] / first[k]:.0%})" for k in ("parameters", "macs")]
            widths = f"{tuple(row['block_out_channels'])} / {tuple(row['field_channels'])}"
            lines.append(f"{name:12}{cells[0]:>20}{cells[1]:>22}{row['validation_loss']:>18.4f}  {widths}")
    return "\n".join(lines)
