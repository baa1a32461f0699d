"""The library call behind `cunet prune`: a trained model is made narrower, and fine-tuned by the trainer.

The folder holds `pruned/`, the model before fine-tuning; `finetuning/`, a run of `cunet train` that starts from it;
`model/`, the result, so that the folder can be used like that of a run; and `prune.json`, measured before and after.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from continuous_unet.base.devices import pick_device
from continuous_unet.base.files import check_output, replace_folder, replace_text
from continuous_unet.base.options import read_layer
from continuous_unet.base.randomness import derive_seed
from continuous_unet.base.results import CallResult, Json
from continuous_unet.base.signals import StopRequest
from continuous_unet.data import ImageDataset, train_validation_split
from continuous_unet.deploy.calibration import Origin, noised_images, open_for, origin
from continuous_unet.deploy.pruning import channels
from continuous_unet.deploy.pruning.options import REPORT, PruneOptions, read_report
from continuous_unet.diffusion.options import ProcessOptions
from continuous_unet.diffusion.process import process_of
from continuous_unet.evaluation import count_macs
from continuous_unet.tasks.generate.pipeline import DiffusionSamplingPipeline
from continuous_unet.tasks.loading import load_pipeline
from continuous_unet.training.config import TrainConfig, recorded
from continuous_unet.training.run import make_task, train
from continuous_unet.training.validation import validate


@dataclass
class PruneResult(CallResult):
    """The result of `prune`."""

    output: str
    report: Json
    """The contents of `prune.json`: `options`, and measurements of `original`, `pruned` and `finetuned`."""
    stopped_by: int | None = None
    """The signal that ended the fine-tuning, if one did."""

    def to_dict(self) -> Json:
        return {**self.report, "stopped_by": self.stopped_by}

    def to_text(self) -> str:
        """Returns a table of the model before pruning, after it, and after fine-tuning."""
        first = self.report["original"]
        lines = [f"{'':12}{'parameters':>20}{'MACs':>22}{'validation loss':>18}  widths / inside fields"]
        for name in ("original", "pruned", "finetuned"):
            if row := self.report.get(name):
                cells = [f"{row[k]:,} ({row[k] / first[k]:.0%})" for k in ("parameters", "macs")]
                widths = f"{tuple(row['block_out_channels'])} / {tuple(row['field_channels'])}"
                lines.append(f"{name:12}{cells[0]:>20}{cells[1]:>22}{row['validation_loss']:>18.4f}  {widths}")
        return "\n".join(lines)

    def notes(self) -> list[str]:
        again = f"stopped; continue with: cunet prune --output {self.output} --resume"
        return [again] if self.stopped_by is not None else []


def prune(options: PruneOptions, resume: bool = False, *, stop: StopRequest | None = None) -> PruneResult:
    """Prunes a trained model and fine-tunes it.

    SIGINT and SIGTERM end the fine-tuning with a checkpoint (`stopped_by`), from which `resume` continues.

    Args:
        options: all settings. How images are cut to size, and which are held out, follows the model's run.
        resume: whether the fine-tuning in `options.output` is continued; the model's folder is not read again.
        stop: ends the fine-tuning, in place of signals.

    Raises:
        InputError: for options, models and data that cannot be used, and if torch-pruning is missing.
        TrainingDiverged: as `train`.
    """
    options.validate()
    folder = Path(options.output)
    if not resume:
        _prune(options)
    report = read_report(folder)
    if report["options"]["steps"] == 0:
        return PruneResult(options.output, report)
    config, begun = _finetuning(folder, report), folder / "finetuning" / "config.yaml"
    if begun.is_file():  # the folder may have moved, and with it the model that the run started from
        before = recorded(read_layer(TrainConfig, begun))
        before.replaced(start_from=config.model.start_from).save(begun)
    result = train(config, resume=begun.is_file(), stop=stop)
    if result.stopped_by is None:
        replace_folder(folder / "model", lambda aside: shutil.copytree(folder / "finetuning" / "model", aside))
        tuned = load_pipeline(folder / "finetuning")
        report["finetuned"] = _measure(tuned, config, _held_out(tuned, config, report)) | {"steps": result.steps}
        replace_text(folder / REPORT, json.dumps(report, indent=1) + "\n")
    return PruneResult(options.output, report, result.stopped_by)


def _prune(options: PruneOptions) -> None:
    """Does everything before the fine-tuning; the folder appears when it is whole, or not at all."""
    resume = "continue its fine-tuning with --resume, choose another --output"
    target = check_output(options.output, overwrite=options.overwrite, mark=REPORT, what="pruned model", instead=resume)
    pipeline = load_pipeline(options.model)
    unet = channels.prunable(pipeline.unet)
    widths = channels.pruned_widths(unet, options.ratio)
    known = origin(options.model)
    data = open_for(pipeline.unet, options.data, known, conditions=pipeline.facts.conditions)
    process = process_of(pipeline.scheduler)
    config = _configure(pipeline, process.options(), known.config, options, data)
    report: Json = {
        "model": options.model,
        "smallest_image": known.smallest_image,
        "options": options.to_dict(),
        "training": config.to_dict(),
    }
    seen, held_out = train_validation_split(data, config.data.num_validation, config.seed)
    report["original"] = _measure(pipeline, config, held_out)
    if options.importance == "taylor":
        with_labels = unet.config.num_class_embeds is not None
        batch = noised_images(seen, process, options.importance_images, with_labels=with_labels, seed=config.seed)
        report["timesteps"] = channels.accumulate_gradients(unet, process, batch)
    torch.manual_seed(derive_seed("pruning", config.seed))  # importance="random" draws from it
    pruned = channels.prune_unet(unet, widths, options.importance).eval()
    narrow = DiffusionSamplingPipeline(pruned, pipeline.scheduler, pipeline.facts)
    report["pruned"] = _measure(narrow, config, held_out)

    def write(aside: Path) -> None:
        for name in ("pruned", "model"):
            narrow.save_pretrained(aside / name)
        replace_text(aside / REPORT, json.dumps(report, indent=1) + "\n")

    replace_folder(target, write)


def _configure(
    pipeline: DiffusionSamplingPipeline,
    process: ProcessOptions,
    known: TrainConfig,
    options: PruneOptions,
    data: ImageDataset,
) -> TrainConfig:
    """Returns the configuration of the fine-tuning: that of the model's run, with what pruning sets."""
    num_validation = options.num_validation or known.data.num_validation or 256
    has_null = pipeline.facts.conditions.null_class is not None
    return known.replaced(
        process=process.name,
        **process.flat(),
        data=options.data,
        output="finetuning",
        start_from="pruned",
        model_options={},
        class_conditional=pipeline.unet.config.num_class_embeds is not None,
        condition_dropout=known.flat().get("condition_dropout", 0.1) if has_null else 0.0,
        default_guidance=pipeline.facts.conditions.guidance_scale if has_null else 1.0,
        image_size=data.report.image_size,
        channels=data.report.channels,
        num_validation=min(num_validation, len(data) // 2),
        seed=known.seed if options.seed is None else options.seed,
        steps=max(1, options.steps),
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        lr_schedule="cosine",
        lr_warmup_steps=min(100, options.steps // 10),
        ema_decay=min(known.optimizer.ema_decay, 0.999),
        checkpoint_every=options.checkpoint_every,
        validate_every=options.checkpoint_every,
        sample_every=max(1, options.steps),
        device=options.device,
    ).validate()


def _finetuning(folder: Path, report: Json) -> TrainConfig:
    """Returns the run's configuration, with paths from where the folder is now."""
    config = recorded(report["training"])
    return config.replaced(output=str(folder / "finetuning"), start_from=str(folder / "pruned"))


def _held_out(pipeline: DiffusionSamplingPipeline, config: TrainConfig, report: Json) -> ImageDataset:
    known = Origin(config, report["smallest_image"])
    data = open_for(pipeline.unet, config.data.source, known, conditions=pipeline.facts.conditions)
    return train_validation_split(data, config.data.num_validation, config.seed)[1]


def _measure(pipeline: DiffusionSamplingPipeline, config: TrainConfig, images: ImageDataset) -> Json:
    """Returns parameters, multiply-accumulates of one image, validation loss and widths of a model."""
    device = torch.device(pick_device(config.device))
    unet = channels.prunable(pipeline.unet).eval()
    nn.Module.to(unet, device)
    task = make_task(config)
    sample = torch.zeros_like(images[0]["image"], device=device)[None]
    conditions = {name: value.to(device) for name, value in task.trial_conditions().items()}
    with torch.no_grad():
        macs = count_macs(unet, sample, 0, **conditions, strict=True).macs
    widths = channels.current_widths(unet)
    return {
        "parameters": unet.num_parameters(),
        "macs": macs,
        "validation_loss": validate(task, unet, images, seed=config.seed)["validation_loss"],
        "block_out_channels": list(widths.levels),
        "field_channels": list(widths.fields),
    }
