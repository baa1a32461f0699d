"""The speed of `cunet train` relative to the fastest loop that we can write for the same model, data and precision.

    python benchmarks/loop.py                         # on the CPU; rows to benchmarks/results/loop.csv, two minutes
    python benchmarks/loop.py --device cuda --mixed-precision bf16 --preset base --image-size 64 --batch-size 256

Both train on images that are in memory. The bare loop draws its random numbers from torch's generator, and does nothing
but what training needs: flips, noise, loss, gradient, clipping, AdamW and the average of the weights. On a GPU it is
one CUDA graph per training step. `cunet train` also draws numbers that do not depend on the batch, watches for
gradients that are not finite and for images that cannot be read, counts, records, and listens to signals. Both take
turns, and each round gives a ratio.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rows import read, write

from continuous_unet.base.threads import prepare_threads

prepare_threads()
import torch  # noqa: E402  # threads are settled when torch is imported
from torch import Tensor  # noqa: E402

from continuous_unet.base.devices import on_side_stream  # noqa: E402
from continuous_unet.models.build import build_unet  # noqa: E402
from continuous_unet.training import TrainConfig  # noqa: E402
from continuous_unet.training.folder import RunFolder  # noqa: E402
from continuous_unet.training.run import assemble  # noqa: E402

CPU_CASES = (
    {"preset": "tiny", "data": "digits", "image_size": 16, "batch_size": 32},
    {"preset": "small", "data": "shapes", "image_size": 32, "batch_size": 16},
)


def ours(trainer: Any, kept: Any) -> tuple[Callable[[int], None], Callable[[], None]]:
    """Returns what takes some training steps of a run and records them, and what ends its loader."""
    batches = trainer.data.loader(trainer.config.optimizer.batch_size, kept=kept)
    trainer.learner.wrapped.train()

    def steps(number: int) -> None:
        for _ in range(number):
            norm = trainer.take_step(batches)
            trainer.stopped_by = trainer.processes.agreed(trainer.stop)
        trainer.settle()
        loss = trainer.mean_loss()
        trainer.state.losses.clear()
        trainer.record(loss=loss, gradient_norm=float(norm), images_per_second=0.0)

    return steps, batches.close


def bare(config: TrainConfig, trainer: Any, pixels: Tensor) -> Callable[[int], None]:
    """Returns what takes some steps of the bare loop, on a new model like that of a run."""
    device, settings, process = trainer.accelerator.device, config.optimizer, trainer.task.process
    on_gpu, arguments = device.type == "cuda", {**trainer.learner.bare.config}
    kept = {name: value for name, value in arguments.items() if not name.startswith("_")}
    model = build_unet(config.model.preset, **kept).to(device).train()
    pixels = pixels.to(device)
    if on_gpu:
        model, pixels = model.to(memory_format=torch.channels_last), pixels.to(memory_format=torch.channels_last)
    parameters = list(model.parameters())
    averages = [parameter.detach().clone() for parameter in parameters]
    optimizer = torch.optim.AdamW(parameters, fused=True, capturable=on_gpu)
    wrapped = torch.compile(model) if config.model.compile else model
    half = settings.mixed_precision == "bf16"
    count, size = len(pixels), settings.batch_size

    def step() -> None:
        chosen = pixels[torch.randint(count, (size,), device=device)]
        clean = chosen.float().div_(127.5).sub_(1) if pixels.dtype == torch.uint8 else chosen
        if config.data.random_flip:
            clean = torch.where(torch.rand(size, 1, 1, 1, device=device) < 0.5, clean.flip(-1), clean)
        noise = torch.randn_like(clean)
        times = process.draw_times(torch.rand(size, device=device))
        noised = process.add_noise(clean, noise, times)
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            prediction = wrapped(noised.x_t, times).sample
        torch.nn.functional.mse_loss(prediction.float(), noised.target).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            torch._foreach_lerp_(averages, parameters, 1e-3)  # type: ignore[call-overload]

    replay = step
    if on_gpu:
        for _ in range(3):
            on_side_stream(step)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        replay = graph.replay

    def steps(number: int) -> None:
        for _ in range(number):
            replay()
        if on_gpu:
            torch.cuda.synchronize()

    return steps


def measure(case: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Returns the row of one model."""
    with tempfile.TemporaryDirectory() as name, RunFolder(f"{name}/run") as folder:
        values = {**case, "output": f"{name}/run", "steps": 10**6, "random_flip": True}
        values |= {"device": options.device, "mixed_precision": options.mixed_precision, "compile": options.compile}
        config = TrainConfig.from_dict(values).validate()
        trainer = assemble(config, folder, resume=False)
        data, device, kept = trainer.data, trainer.accelerator.device, None
        if data.obstacle(device, 1) is None:
            kept = data.keep(device)
            for start in range(0, len(data), 256):  # decodes all of them
                kept.batch([(0, k) for k in range(start, min(start + 256, len(data)))])
        pixels = torch.stack([data[k]["image"] for k in range(len(data))]) if kept is None else kept.pixels
        own, close = ours(trainer, kept)
        loops = {"cunet train": own, "bare": bare(config, trainer, pixels)}
        for loop in loops.values():
            loop(options.warm_up)
        started = time.perf_counter()
        loops["bare"](options.warm_up)
        number = max(2, round(options.seconds * options.warm_up / (time.perf_counter() - started)))
        speeds: dict[str, list[float]] = {name: [] for name in loops}
        for turn in range(options.rounds):
            order = list(loops) if turn % 2 else list(loops)[::-1]
            for name in order:
                started = time.perf_counter()
                loops[name](number)
                images = number * config.optimizer.batch_size
                speeds[name].append(images / (time.perf_counter() - started))
        close()
        trainer.leave()
    ratios = sorted(a / b for a, b in zip(speeds["cunet train"], speeds["bare"], strict=True))
    low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    return {
        **case,
        "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
        "mixed_precision": options.mixed_precision,
        "compile": options.compile,
        "images_per_second": round(statistics.median(speeds["cunet train"]), 1),
        "bare_images_per_second": round(statistics.median(speeds["bare"]), 1),
        "ratio": middle,
        "ratio_p25": low,
        "ratio_p75": high,
        "rounds": options.rounds,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", help="folder of the rows")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--mixed-precision", choices=("no", "bf16"), default="no")
    parser.add_argument("--compile", action="store_true", help="compile the model of both")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--warm-up", type=int, default=6, help="training steps before anything counts")
    parser.add_argument("--preset", help="instead of the usual two models")
    parser.add_argument("--data", default="shapes")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=32)
    options = parser.parse_args()
    given = {name: getattr(options, name) for name in ("preset", "data", "image_size", "batch_size")}
    path = options.output / "loop.csv"
    rows = read(path) if options.preset else []  # rows of another device stay
    for case in [given] if options.preset else CPU_CASES:
        rows.append(measure(case, options))
        print(rows[-1], flush=True)
    write(path, rows)


if __name__ == "__main__":
    main()
