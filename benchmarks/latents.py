"""Latents beside pixels: the quality of the codec, and the cost of an image and FID by number of sampling steps.

    python benchmarks/latents.py --train TRAIN.zip --test TEST.zip --latent RUN --pixel RUN

TEST has images that neither the codec nor the models have seen. FID is between samples and images of TEST; beside it
stand the FID of other real images, which no model can be below, and that of the real images after the codec, which no
model of latents can be below. MACs are those of all evaluations of an image and of decoding it. Seconds are those of
one image in eager PyTorch; evaluations and decoding are timed in turns. Rows go to `results/latents.csv`.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rows import write
from torch import Tensor

from continuous_unet.codecs.base import Codec
from continuous_unet.data import ImageDataset, open_dataset, train_validation_split
from continuous_unet.evaluation.costs.latency import measure_latency
from continuous_unet.evaluation.costs.macs import count_macs
from continuous_unet.evaluation.quality import generation
from continuous_unet.evaluation.quality.extractors import Preparation, extractor_class
from continuous_unet.images.grids import make_grid, write_png
from continuous_unet.tasks.base import mean_psnr
from continuous_unet.tasks.generate.pipeline import DiffusionSamplingPipeline, generate

RESULTS = Path(__file__).parent / "results" / "latents.csv"
CPU = torch.device("cpu")
BATCH = 50


def batches(data: ImageDataset, numbers: list[int]) -> Iterator[Tensor]:
    """Yields images `(B, C, H, W)` in [-1, 1]."""
    for start in range(0, len(numbers), BATCH):
        yield torch.stack([data[i]["image"] for i in numbers[start : start + BATCH]])


def through(codec: Codec, data: ImageDataset, numbers: list[int], errors: list[Tensor]) -> Iterator[Tensor]:
    """Yields what comes back of images, in [0, 1], and keeps the squared error of each image, of values in [-1, 1]."""
    for images in batches(data, numbers):
        back = codec.decode(codec.encode(images)).clamp(-1, 1)
        errors.append(((back - images) ** 2).flatten(1).mean(dim=1))
        yield back / 2 + 0.5


def costs(pipelines: dict[str, DiffusionSamplingPipeline], repeats: int) -> dict[str, dict[str, float]]:
    """Returns MACs and milliseconds of one evaluation and of decoding one image, for each model."""
    functions: dict[str, Any] = {}
    found: dict[str, dict[str, float]] = {}
    for name, pipeline in pipelines.items():
        unet, codec = pipeline.unet, pipeline.codec
        _, height, width = pipeline.image_shape
        state = torch.zeros(1, unet.config.in_channels, height // codec.factor, width // codec.factor)
        functions[f"{name} evaluation"] = lambda unet=unet, state=state: unet(state, 500)
        functions[f"{name} decoding"] = lambda codec=codec, state=state: codec.decode(state)
        counts = {
            part: count_macs(functions[f"{name} {part}"], strict=True).macs for part in ("evaluation", "decoding")
        }
        parameters = sum(p.numel() for p in unet.parameters())
        found[name] = {"parameters": parameters, **{f"{part}_macs": macs for part, macs in counts.items()}}
    for name, latency in measure_latency(functions, repeats=repeats).items():
        model, _, part = name.rpartition(" ")
        found[model][f"{part}_ms"] = latency.median_ms
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", required=True, help="real images for an extractor that has to be trained")
    parser.add_argument("--test", required=True, help="real images that no model has seen")
    parser.add_argument("--latent", required=True, help="run of the model of latents")
    parser.add_argument("--pixel", required=True, help="run of the model of pixels")
    parser.add_argument("--num", type=int, default=1000, help="number of samples and of real images")
    parser.add_argument("--steps", type=int, nargs="+", default=[5, 10, 20, 50], help="numbers of sampling steps")
    parser.add_argument("--scheduler", default="ddim")
    parser.add_argument("--extractor", default="efficientnet-lite0")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--pictures", type=Path, help="folder for a grid of samples of each model")
    args = parser.parse_args()
    torch.set_num_threads(1)

    models = {"latent": args.latent, "pixel": args.pixel}
    pipelines = {name: generation.load_sampler(run, args.scheduler, CPU)[0] for name, run in models.items()}
    shape = pipelines["latent"].image_shape
    assert pipelines["pixel"].image_shape == shape
    test, train = (
        open_dataset(source, image_size=shape[1:], channels=shape[0], progress=False)
        for source in (args.test, args.train)
    )
    kind, path = extractor_class(args.extractor), RESULTS.with_name("extractor.safetensors")
    training, held_out = train_validation_split(train, 500, 0)
    extractor = kind(path, kind.prepare(Preparation(training, held_out, path, CPU, 1500)), CPU)
    path.unlink(missing_ok=True)
    torch.set_grad_enabled(False)
    real_numbers, others = generation.real_halves(test, args.num)
    real = generation.real_features(test, real_numbers, extractor, CPU)
    common = {"extractor": extractor.name, "num_real": len(real_numbers), "scheduler": args.scheduler}
    table: list[dict[str, Any]] = []

    def add(side: str, features: Tensor, **values: Any) -> None:
        distance = generation.distances(real, features)
        table.append({"side": side, **common, "num": len(features), "fid": distance.fid, "kid": distance.kid, **values})
        print(table[-1], flush=True)
        write(RESULTS, table)

    add("real", generation.real_features(test, others, extractor, CPU))
    codec, errors = pipelines["latent"].codec, list[Tensor]()
    features, _ = generation.fake_features(through(codec, test, others, errors), extractor, CPU)
    squared = torch.cat(errors)
    back = (torch.cat(errors) / 4).clamp(min=1e-12)
    add("codec", features, psnr=mean_psnr(squared), psnr_p10=float((-10 * back.log10()).quantile(0.1)))
    cost = costs(pipelines, args.repeats)
    for steps in args.steps:
        for name, pipeline in pipelines.items():
            own = cost[name]
            made = generate(pipeline, args.num, num_inference_steps=steps, batch_size=BATCH)
            features, kept = generation.fake_features(made, extractor, CPU)
            macs = steps * own["evaluation_macs"] + own["decoding_macs"]
            seconds = (steps * own["evaluation_ms"] + own["decoding_ms"]) / 1000
            add(name, features, sampling_steps=steps, macs=macs, seconds=seconds, **own)
            if args.pictures is not None:
                args.pictures.mkdir(parents=True, exist_ok=True)
                write_png(make_grid(kept[:36], columns=12), args.pictures / f"{name}-{steps}.png")


if __name__ == "__main__":
    main()
