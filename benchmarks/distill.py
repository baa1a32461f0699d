"""Few evaluations: a teacher and its students side by side, by number of evaluations of the model.

    python benchmarks/distill.py prepare --data MNIST --features FOLDER      # the extractor and its features, once
    python benchmarks/distill.py scan STUDENT --features FOLDER              # the best mid noise level, kept in STUDENT
    python benchmarks/distill.py measure NAME=MODEL … --features FOLDER      # rows to results/few-steps.csv
    python benchmarks/distill.py picture NAME=MODEL … --out FILE             # the same seeds side by side

MODEL is a run or a saved model. A student is measured with its own sampler at the numbers of evaluations that it
supports. A teacher is measured at its searched times, and at 1, 2, 4, 5, 10 and 50 steps (`--teacher-steps`) of each of
`--schedulers`, with guidance scales (`--guidance`; that of the model if left out). Rows of the same model and number of
samples are replaced.
"""

import argparse
import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from pictures import few_steps
from rows import read, write
from torch import Tensor

from continuous_unet.data import open_dataset, train_validation_split
from continuous_unet.diffusion.levels import NoiseRange
from continuous_unet.diffusion.process import process_of
from continuous_unet.evaluation.costs.macs import count_macs
from continuous_unet.evaluation.quality import generation
from continuous_unet.evaluation.quality.classes import wanted_classes
from continuous_unet.evaluation.quality.extractors import Extractor, Preparation, extractor_class
from continuous_unet.images.grids import write_png
from continuous_unet.tasks.facts import SamplerFacts, write_facts
from continuous_unet.tasks.generate.pipeline import DiffusionSamplingPipeline, choose_sampler
from continuous_unet.tasks.loading import load_pipeline
from continuous_unet.tasks.saved import model_folder

RESULTS = Path(__file__).parent / "results" / "few-steps.csv"
TEACHER_STEPS = (1, 2, 4, 5, 10, 50)
STUDENT_STEPS = (1, 2, 4)
MID_LEVELS = (0.5, 0.8, 1.2, 1.8, 2.6, 3.8, 5.6, 8.0)
CPU = torch.device("cpu")


@dataclasses.dataclass(frozen=True)
class Features:
    """Features of two disjoint sets of real images, and the network that computes them."""

    extractor: Extractor
    real: Tensor
    others: Tensor
    data: str

    @staticmethod
    def load(folder: Path) -> "Features":
        """Reads what `prepare` wrote."""
        facts = json.loads((folder / "facts.json").read_text())
        extractor = extractor_class(facts["extractor"])(folder / "extractor.safetensors", facts["trained"], CPU)
        real, others = (torch.load(folder / f"{name}.pt", weights_only=True) for name in ("real", "others"))
        return Features(extractor, real, others, facts["data"])

    def of(self, images: Iterator[Tensor]) -> Tensor:
        """Returns the features of batches of images in [0, 1]."""
        return generation.fake_features(images, self.extractor, CPU)[0]


def prepare(args: argparse.Namespace) -> None:
    """Trains the extractor where it has to be, and computes the features of the real images."""
    data = open_dataset(args.data, image_size=args.image_size, channels=args.channels, fit=args.fit, seed=0)
    training, held_out = train_validation_split(data, min(1000, len(data) // 10), 0)
    args.features.mkdir(parents=True, exist_ok=True)
    weights = args.features / "extractor.safetensors"
    kind = extractor_class(args.extractor)
    trained = kind.prepare(Preparation(training, held_out, weights, CPU, args.extractor_steps))
    extractor = kind(weights, trained, CPU)
    for name, numbers in zip(("real", "others"), generation.real_halves(data, args.num), strict=True):
        torch.save(generation.real_features(data, numbers, extractor, CPU), args.features / f"{name}.pt")
    facts = {"extractor": args.extractor, "trained": trained, "data": Path(args.data).name}
    (args.features / "facts.json").write_text(json.dumps(facts, indent=1) + "\n")
    print(f"{extractor.name}: {trained}")


def scan(args: argparse.Namespace) -> None:
    """Tries levels of the noise at the second of two evaluations, and writes the best one into the student."""
    pipeline, features = loaded(args.model), Features.load(args.features)
    own = pipeline.facts.sampler
    if own is None or not own.distilled:
        raise SystemExit(f"{args.model} is no student")
    best: tuple[float, SamplerFacts] | None = None
    for fresh in (False, True) if args.fresh_noise else (own.fresh_noise,):
        for mid in MID_LEVELS:
            sampler = dataclasses.replace(own, times=tables(pipeline, own.numbers, mid), fresh_noise=fresh)
            pipeline.facts = dataclasses.replace(pipeline.facts, sampler=sampler)
            fid = distance(features, pipeline, args.steps, args.num)["fid"]
            print(f"mid noise {mid:g}, {'fresh' if fresh else 'same'} noise: FID {fid:.4f} at {args.steps}", flush=True)
            best = min(best or (fid, sampler), (fid, sampler), key=lambda pair: pair[0])
    assert best is not None
    pipeline.facts = dataclasses.replace(pipeline.facts, sampler=best[1])
    write_facts(model_folder(Path(args.model)), pipeline.facts)


def tables(pipeline: DiffusionSamplingPipeline, numbers: list[int], mid: float) -> tuple[tuple[float, ...], ...]:
    """Returns the times of evaluations for a mid noise level, for each number of them."""
    process = process_of(pipeline.scheduler)
    levels = [torch.tensor(NoiseRange.of(process).levels(n, mid), dtype=torch.float64) for n in numbers]
    return tuple(tuple(process.time_at(level).tolist()) for level in levels)


def measure(args: argparse.Namespace) -> None:
    """Measures models at some numbers of evaluations."""
    features = Features.load(args.features)
    floor = generation.distances(features.real, features.others).fid
    place = args.out or RESULTS
    kept = read(place)
    for name, model in named(args.models):
        ours = (name, features.data, args.num)
        kept = [row for row in kept if (row["model"], row["data"], int(row["num_images"])) != ours]
        own = load_pipeline(model).facts.sampler
        scales = args.guidance if args.guidance and not (own is not None and own.distilled) else [None]
        for scheduler, steps in cases(own, args.schedulers, args.teacher_steps):
            for guidance in scales:
                pipeline = loaded(model)
                choose_sampler(pipeline, scheduler, steps)
                row = {"data": features.data, "model": name, "sampler": scheduler or "own", "evaluations": steps}
                scale = pipeline.facts.conditions.guidance_scale if guidance is None else guidance
                row |= {"guidance": scale, "floor": floor}
                row |= {"parameters": pipeline.unet.num_parameters(), "macs": macs(pipeline)}
                row |= distance(features, pipeline, steps, args.num, guidance)
                kept.append(row | {"extractor": features.extractor.name})
                what = f"{name}, {row['sampler']}, guidance {scale:g}, {steps}"
                print(f"{what}: FID {row['fid']:.4f} (floor {floor:.4f})", flush=True)
                write(place, kept)


def cases(own: SamplerFacts | None, schedulers: list[str], teacher_steps: list[int]) -> list[tuple[str | None, int]]:
    """Returns the samplers and numbers of evaluations to measure a model with, given its own sampler."""
    if own is not None and own.distilled:
        return [(None, steps) for steps in STUDENT_STEPS if steps in own.numbers]
    cases: list[tuple[str | None, int]] = [(name, steps) for name in schedulers for steps in teacher_steps]
    return cases + [(None, steps) for steps in ([] if own is None else own.numbers)]


def distance(
    features: Features, pipeline: DiffusionSamplingPipeline, steps: int, num: int, guidance: float | None = None
) -> dict[str, Any]:
    """Returns the distances of samples from the real images, and the seconds of each sample."""
    started = time.perf_counter()
    wanted = wanted_classes(pipeline, num)
    how: dict[str, Any] = {"num_inference_steps": steps, "guidance_scale": guidance}
    made = features.of(generation.samples(pipeline, wanted, seed=1, batch_size=50, **how))
    seconds = (time.perf_counter() - started) / num
    return {**dataclasses.asdict(generation.distances(features.real, made)), "seconds_per_image": seconds}


def macs(pipeline: DiffusionSamplingPipeline) -> int:
    """Returns the multiply-accumulates of one evaluation for one image."""
    config = pipeline.unet.config
    size = (config.sample_size,) * 2 if isinstance(config.sample_size, int) else config.sample_size
    labels = {} if config.num_class_embeds is None else {"class_labels": torch.zeros(1, dtype=torch.long)}
    inputs = (torch.zeros(1, config.in_channels, *size), torch.zeros(1))
    return count_macs(pipeline.unet, *inputs, **labels).macs


def picture(args: argparse.Namespace) -> None:
    """Draws the images of the same seeds: a row for each model and number of evaluations."""
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_png(few_steps(dict(named(args.models)), args.num, args.schedulers[0]), args.out)


def named(models: list[str]) -> list[tuple[str, str]]:
    """Returns names and models."""
    return [(name, model) for name, _, model in (text.partition("=") for text in models)]


def loaded(model: str) -> DiffusionSamplingPipeline:
    """Returns the pipeline of a model, which is silent."""
    pipeline = load_pipeline(model)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(required=True)
    calls: dict[str, Callable[[argparse.Namespace], None]] = {
        "prepare": prepare, "scan": scan, "measure": measure, "picture": picture
    }  # fmt: skip
    for name, call in calls.items():
        part = parts.add_parser(name)
        part.set_defaults(call=call)
        part.add_argument("--num", type=int, default={"scan": 1000, "picture": 12}.get(name, 5000))
        part.add_argument("--threads", type=int, default=1)
        if name == "prepare":
            part.add_argument("--data", required=True)
            part.add_argument("--image-size", type=int, default=32)
            part.add_argument("--channels", type=int, default=1)
            part.add_argument("--fit", default="pad")
            part.add_argument("--extractor", default="classifier")
            part.add_argument("--extractor-steps", type=int, default=600)
        if name == "scan":
            part.add_argument("model")
            part.add_argument("--steps", type=int, default=2)
            part.add_argument("--fresh-noise", action="store_true", help="try both kinds of noise")
        if name in ("measure", "picture"):
            part.add_argument("models", nargs="+", metavar="NAME=MODEL")
            part.add_argument("--schedulers", nargs="+", default=["dpm++"])
            part.add_argument("--out", type=Path, required=name == "picture")
        if name == "measure":
            part.add_argument("--teacher-steps", type=int, nargs="*", default=list(TEACHER_STEPS))
            part.add_argument("--guidance", type=float, nargs="+", help="guidance scales of teachers")
        if name != "picture":
            part.add_argument("--features", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.call(args)


if __name__ == "__main__":
    main()
