"""Measures trained models in every exported form: latency, throughput, quality, parity and size.

    python benchmarks/deploy.py --ours RUN --discrete RUN --data DATA       # everything, in the order of PARTS
    python benchmarks/deploy.py --ours RUN --discrete RUN --data DATA --only latency

`--ours` is a run of a continuous U-Net, `--discrete` one of a `UNet2DModel` of the usual size on the same data.
Intermediate results (exports, pruned models, the classifier) stay in `--work` and are reused, so the parts can be run
one by one. The rows of a part replace its old ones in `benchmarks/results/deploy.csv`. Times of one table are measured
in turns in one process, with the spread of the ratios within a round.
"""

import argparse
import importlib.util
import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.unets.unet_2d import UNet2DOutput
from rows import read, write
from torch import Tensor, nn

from continuous_unet import DiffusionSamplingPipeline
from continuous_unet.data import train_validation_split
from continuous_unet.deploy.calibration import noised_images, open_for, origin
from continuous_unet.deploy.export import export
from continuous_unet.deploy.formats import FORMATS
from continuous_unet.deploy.formats.to_aoti import open_aoti
from continuous_unet.deploy.formats.to_executorch import open_executorch
from continuous_unet.deploy.options import ExportOptions
from continuous_unet.deploy.pruning.options import PruneOptions
from continuous_unet.deploy.pruning.run import prune
from continuous_unet.deploy.quantization import CALIBRATION_BATCH, FLOAT_LAYERS, calibration_inputs, quantize_onnx
from continuous_unet.deploy.standalone.runtime import OPENERS
from continuous_unet.diffusion.process import process_of
from continuous_unet.diffusion.samplers import make_scheduler
from continuous_unet.evaluation import Latency, count_macs, measure_latency
from continuous_unet.evaluation.quality.extractors.classifier import SmallClassifier
from continuous_unet.evaluation.quality.generation import distances, fake_features, real_features
from continuous_unet.tasks.generate.options import GenerateTraining
from continuous_unet.tasks.generate.pipeline import generate
from continuous_unet.tasks.generate.training import GenerateTask
from continuous_unet.tasks.loading import load_pipeline
from continuous_unet.training import train
from continuous_unet.training.validation import validate

SIDES = ("ours", "discrete")
EXPORTS = (
    ("onnx", "fp32"), ("onnx", "fp16"), ("onnx", "int8"), ("openvino", "fp32"), ("openvino", "fp16"),
    ("openvino", "int8"), ("aoti", "fp32"), ("executorch", "fp32"), ("executorch", "int8"),
)  # fmt: skip
RATIOS = (0.3, 0.5)
PRUNED = {f"pruned-{ratio:g}": ratio for ratio in RATIOS}
"""Our pruned models, which are sides of their own where whole images are made."""
SOLVER_STEPS = (1, 2, 4)
FINETUNE_RATE = 2e-4
"""Peak learning rate of fine-tuning: a tenth of that of the training."""
THREADS = 2
"""Number of threads for measurements of whole images."""
REST = 0.2
"""Seconds to sleep, followed by an untimed call, before each timed call with several threads. ONNX Runtime's threads
keep spinning for more than 20 ms (measured), and would make the next runtime two to three times as slow.
"""
SAMPLING_STEPS = (2, 3, 4, 5, 6, 8, 10, 20)
CPU = torch.device("cpu")
Network = Callable[..., np.ndarray]


class Bench:
    """Holds the models of both sides, and makes what the parts need of them once."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.work: Path = arguments.work
        self.work.mkdir(parents=True, exist_ok=True)
        self.runs = {"ours": arguments.ours, "discrete": arguments.discrete}

    def run(self, side: str) -> Path | str:
        return self.pruned(PRUNED[side]) if side in PRUNED else self.runs[side]

    def pipeline(self, side: str) -> DiffusionSamplingPipeline:
        return load_pipeline(self.run(side))

    def export(self, side: str, form: str, precision: str, solver_steps: int | None = None) -> Path | None:
        """Returns a folder of `cunet export`, and makes it if necessary; None if the format's packages are missing.

        OpenVINO and ExecuTorch plan for one image; ONNX and AOTInductor take any number.
        """
        if any(importlib.util.find_spec(package) is None for package in FORMATS[form].packages):
            return None
        steps = "" if solver_steps is None else f"-{solver_steps}steps"
        folder = self.work / f"{side}-{form}-{precision}{steps}"
        if not (folder / "export.json").is_file():
            print(f"export: {folder.name}", flush=True)
            size = self.pipeline(side).unet.config.sample_size
            options = ExportOptions(
                model=str(self.run(side)),
                format=form, precision=precision, output=str(folder), solver_steps=solver_steps, repeats=0,
                calibration_data=self.arguments.data if precision == "int8" else None, tolerance=10.0,
                static_shape=f"1x{size}x{size}" if form in ("openvino", "executorch") else None,
            )  # fmt: skip
            export(options)
        return folder

    def network(self, folder: Path, threads: int) -> Network:
        info = json.loads((folder / "export.json").read_text(encoding="utf-8"))
        openers = {**OPENERS, "aoti": open_aoti, "executorch": open_executorch}
        return openers[info["format"]](folder / info["network"], threads, [entry["name"] for entry in info["inputs"]])

    def pruned(self, ratio: float) -> Path:
        """Returns a folder of `cunet prune`, and makes or finishes it if necessary."""
        folder = self.work / f"pruned-{ratio:g}"
        options = PruneOptions(
            model=str(self.runs["ours"]),
            data=self.arguments.data,
            output=str(folder),
            ratio=ratio,
            steps=self.arguments.finetune_steps,
        )
        report = json.loads((folder / "prune.json").read_text()) if (folder / "prune.json").is_file() else None
        if report is None or (options.steps and "finetuned" not in report):
            print(f"prune: {folder.name}", flush=True)
            prune(options, resume=report is not None)
        return folder

    def finetuned(self, aware: bool) -> Path:
        """Returns our run, trained further with or without int8 rounding, and makes or finishes it if necessary."""
        folder = self.work / ("run-finetuned-aware" if aware else "run-finetuned")
        steps = self.arguments.finetune_steps
        config = origin(self.arguments.ours).config.replaced(
            start_from=str(self.arguments.ours), model_options={}, output=str(folder), data=self.arguments.data,
            quantization_aware=aware, steps=steps, learning_rate=FINETUNE_RATE, lr_schedule="cosine",
            lr_warmup_steps=50, ema_decay=0.99, device="cpu", validate_every=steps, checkpoint_every=steps,
            sample_every=steps,
        )  # fmt: skip
        if not (folder / "report.md").is_file():
            print(f"fine-tuning: {folder.name}", flush=True)
            train(config, resume=folder.is_dir())
        return folder


class Exported(nn.Module):
    """Gives an exported network the interface of a U-Net, so that the same code samples and validates it."""

    def __init__(self, network: Network, config: Any, batch: int | None) -> None:
        super().__init__()
        self.network, self.config, self.batch = network, config, batch
        self.dtype, self.device = torch.float32, CPU

    def forward(
        self, sample: Tensor, timestep: Any, class_labels: Tensor | None = None, return_dict: bool = True
    ) -> UNet2DOutput:
        times = torch.as_tensor(timestep, dtype=torch.float32).expand(len(sample))
        inputs = [sample.numpy(), times.numpy(), *([] if class_labels is None else [class_labels.numpy()])]
        size = self.batch or len(sample)
        parts = [self.network(*(a[i : i + size] for a in inputs)) for i in range(0, len(sample), size)]
        return UNet2DOutput(sample=torch.from_numpy(np.concatenate(parts)))


def exports(bench: Bench) -> Iterator[dict[str, Any]]:
    """Yields the size of every file, and its worst error relative to PyTorch in a sampling run from the same noise."""
    for side in SIDES:
        for form, precision in EXPORTS:
            folder = bench.export(side, form, precision)
            if folder is None:
                print(f"{form}: not installed, left out")
                continue
            info = json.loads((folder / "export.json").read_text(encoding="utf-8"))
            parity = info["parity"]
            yield {
                "side": side, "variant": f"{form} {precision}", "bytes": info["size_bytes"],
                "parameters": info["model"]["parameters"],
                "error": max(entry["max_error"] for entry in parity["inputs"]),
                "error_sampling": parity["full_sampling"]["max_error"], "steps": parity["full_sampling"]["steps"],
            }  # fmt: skip


def torch_variants(unet: Any, inputs: tuple[Tensor, ...]) -> dict[str, Callable[[], Any]]:
    """Returns calls for PyTorch's own ways to run a model, each on a copy of its own."""
    copies = {name: load_copy(unet) for name in ("eager", "channels_last", "compiled", "compiled bf16")}
    copies["channels_last"] = copies["channels_last"].to(memory_format=torch.channels_last)
    copies["compiled"].compile()
    half = copies["compiled bf16"].to(torch.bfloat16)
    half.compile()
    sample, timestep = inputs
    given = {name: sample for name in copies}
    given["channels_last"] = sample.to(memory_format=torch.channels_last)
    given["compiled bf16"] = sample.to(torch.bfloat16)
    return {name: lambda name=name: copies[name](given[name], timestep).sample for name in copies}


def free_cores() -> int:
    """Returns the number of cores that this process may use; `taskset` can reduce it."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load_copy(unet: Any) -> Any:
    copy = type(unet)(**{name: value for name, value in unet.config.items() if not name.startswith("_")})
    copy.load_state_dict(unet.state_dict())
    return copy.eval()


def latency(bench: Bench) -> Iterator[dict[str, Any]]:
    """Yields the latency of one image in each form of each side, relative to that side in eager PyTorch."""
    for threads in (1, 2):
        torch.set_num_threads(threads)
        for side in SIDES:
            unet = bench.pipeline(side).unet
            size = unet.config.sample_size
            inputs = torch.randn(1, unet.config.in_channels, size, size), torch.full((1,), 500.0)
            torch._dynamo.reset()
            functions = torch_variants(unet, inputs)
            for form, precision in EXPORTS:
                folder = bench.export(side, form, precision)
                if folder is not None:
                    network, arrays = bench.network(folder, threads), tuple(t.numpy() for t in inputs)
                    functions[f"{form} {precision}"] = lambda network=network, arrays=arrays: network(*arrays)
            with torch.inference_mode():
                times = measure_latency(functions, repeats=bench.arguments.repeats, rest=REST if threads > 1 else 0.0)
            for name, time in times.items():
                yield {"side": side, "variant": name, "threads": threads, **timed(time)}


def timed(time: Latency) -> dict[str, Any]:
    return {
        "ms": time.median_ms, "ms_p25": time.p25_ms, "ms_p75": time.p75_ms, "ratio": time.ratio,
        "ratio_p25": time.ratio_p25, "ratio_p75": time.ratio_p75,
    }  # fmt: skip


def sampling(bench: Bench) -> Iterator[dict[str, Any]]:
    """Yields the FID by number of sampling steps, for each side in the forms that `candidates` names."""
    judge = Judge(bench)
    for side, variant in candidates(bench):
        pipeline = form_of(bench, side, variant)
        for steps in SAMPLING_STEPS:
            yield {"side": side, "variant": variant, "steps": steps, **judge.samples(pipeline, steps)}


def candidates(bench: Bench) -> list[tuple[str, str]]:
    """Returns each side's fastest form in floating point and in int8, of those that were timed with `THREADS` threads.

    The pruned models are not timed there, and take the forms of the model that they come from.
    """
    times: dict[tuple[str, bool], list[tuple[float, str]]] = {}
    forms = {"eager", *(f"{form} {precision}" for form, precision in EXPORTS if form != "executorch")}
    for row in known_rows(bench.arguments.output):
        if row["part"] == "latency" and row["threads"] == str(THREADS) and row["variant"] in forms:
            key = row["side"], row["variant"].endswith("int8")
            times.setdefault(key, []).append((float(row["ms"]), row["variant"]))
    if not times:
        raise SystemExit("run --only latency first: it finds out which forms are the fastest")
    fastest = [(side, min(found)[1]) for (side, _), found in sorted(times.items(), reverse=True)]
    return fastest + [(side, form) for side in PRUNED for whole, form in fastest if whole == "ours"]


def end_to_end(bench: Bench) -> Iterator[dict[str, Any]]:
    """Yields images per second on two cores at equal measured quality.

    The quality is the best FID of the discrete side in any of its forms, plus 5 %. Every form of both sides takes the
    fewest sampling steps that reach it; forms that never do are left out. Batches are timed in turns, relative to the
    discrete side's fastest form. Forms that plan for one image get one at a time.
    """
    batch = bench.arguments.batch_size
    torch.set_num_threads(THREADS)
    quality: dict[tuple[str, str], dict[int, float]] = {}
    for row in known_rows(bench.arguments.output):
        if row["part"] == "sampling":
            quality.setdefault((row["side"], row["variant"]), {})[int(row["steps"])] = float(row["fid"])
    if not quality:
        raise SystemExit("run --only sampling first: it finds out how many steps each form needs")
    level = 1.05 * min(min(fids.values()) for (side, _), fids in quality.items() if side == "discrete")
    fewest = {form: min((n for n, fid in fids.items() if fid <= level), default=None) for form, fids in quality.items()}
    functions = {form: sampler(bench, *form, steps, batch) for form, steps in fewest.items() if steps is not None}
    with torch.inference_mode():
        # the fastest form of the discrete side is the reference; one round finds it
        single = measure_latency(functions, repeats=1, warmup=1)
        order = sorted(functions, key=lambda form: (form[0] != "discrete", single[form].median_ms))
        times = measure_latency({form: functions[form] for form in order}, repeats=bench.arguments.rounds, warmup=1)
    for (side, variant), time in times.items():
        steps = fewest[side, variant]
        assert steps is not None
        yield {
            "side": side, "variant": variant, "threads": THREADS, "steps": steps, **timed(time),
            "fid": quality[side, variant][steps], "images_per_second": 1000 * batch / time.median_ms,
        }  # fmt: skip


def sampler(bench: Bench, side: str, variant: str, steps: int, batch: int) -> Callable[[], Any]:
    """Returns a call that makes `batch` images in `steps` sampling steps."""
    pipeline = fast_sampling(form_of(bench, side, variant, THREADS))
    return lambda: list(generate(pipeline, batch, num_inference_steps=steps, batch_size=batch))


def form_of(bench: Bench, side: str, variant: str, threads: int | None = None) -> DiffusionSamplingPipeline:
    """Returns a side in eager PyTorch, or in the form `"FORMAT PRECISION"`."""
    pipeline = bench.pipeline(side)
    if variant == "eager":
        return pipeline
    folder = bench.export(side, *variant.split())
    assert folder is not None
    return bench_exported(bench, pipeline, folder, threads)


def fast_sampling(pipeline: DiffusionSamplingPipeline) -> DiffusionSamplingPipeline:
    """Returns the same model, sampled by DPM-Solver++ and without a progress bar."""
    pipeline = DiffusionSamplingPipeline(pipeline.unet, make_scheduler("dpm++", pipeline.scheduler.config))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def quality(bench: Bench) -> Iterator[dict[str, Any]]:
    """Yields the validation loss and the FID of every form, with the same noise."""
    judge = Judge(bench)
    for side in SIDES:
        pipeline = bench.pipeline(side)
        yield {"side": side, "variant": "eager", **judge(pipeline)}
        for form, precision in EXPORTS:
            if form in ("executorch", "aoti"):
                continue
            folder = bench.export(side, form, precision)
            if folder is not None:
                yield {"side": side, "variant": f"{form} {precision}", **judge(bench_exported(bench, pipeline, folder))}


def pruning(bench: Bench) -> Iterator[dict[str, Any]]:
    """Yields our pruned models' cost, latency in turns with the original, validation loss and FID."""
    judge = Judge(bench)
    whole = bench.pipeline("ours")
    pipelines = {"original": whole}
    rows: dict[str, dict[str, Any]] = {"original": {}}
    for ratio in RATIOS:
        folder = bench.pruned(ratio)
        name = f"pruned {ratio:.0%}"
        pipelines[name] = load_pipeline(folder)
        report = json.loads((folder / "prune.json").read_text(encoding="utf-8"))
        rows[name] = {"validation_loss_before_finetuning": report["pruned"]["validation_loss"]}
    size = whole.unet.config.sample_size
    sample = torch.randn(1, whole.unet.config.in_channels, size, size)
    torch.set_num_threads(1)
    with torch.inference_mode():
        functions = {name: lambda unet=p.unet: unet(sample, 500) for name, p in pipelines.items()}
        times = measure_latency(functions, repeats=bench.arguments.repeats)
        for name, pipeline in pipelines.items():
            macs = count_macs(pipeline.unet, sample, 500).macs
            cost = {"parameters": pipeline.unet.num_parameters(), "macs": macs, "threads": 1, **timed(times[name])}
            yield {"side": "ours", "variant": name, **cost, **rows[name], **judge(pipeline)}


def solver_steps(bench: Bench) -> Iterator[dict[str, Any]]:
    """Yields int8 by number of solver steps, because shared weights are rounded anew at each of them."""
    judge = Judge(bench, fid=False)
    pipeline = bench.pipeline("ours")
    for steps in SOLVER_STEPS:
        for precision in ("fp32", "int8"):
            own = pipeline.unet.config.num_solver_steps
            folder = bench.export("ours", "onnx", precision, None if steps == own else steps)
            assert folder is not None
            info = json.loads((folder / "export.json").read_text(encoding="utf-8"))
            yield {
                "side": "ours", "variant": f"onnx {precision}", "solver_steps": steps,
                "error_sampling": info["parity"]["full_sampling"]["max_error"],
                **judge(bench_exported(bench, pipeline, folder)),
            }  # fmt: skip


def quantization_aware(bench: Bench) -> Iterator[dict[str, Any]]:
    """Yields int8 of our run as it is, after fine-tuning with rounding, and after equally long fine-tuning without."""
    judge = Judge(bench)
    for name, aware in (("ours", None), ("finetuned", False), ("finetuned-aware", True)):
        if aware is not None:
            bench.runs[name] = bench.finetuned(aware)
        pipeline = bench.pipeline(name)
        for precision in ("fp32", "int8"):
            folder = bench.export(name, "onnx", precision)
            assert folder is not None
            loss = judge(bench_exported(bench, pipeline, folder))
            yield {"side": "ours", "variant": f"{name} {precision}", **loss}


def float_layers(bench: Bench) -> Iterator[dict[str, Any]]:
    """Yields int8 with the first and last convolution in float, and with all of them in int8."""
    judge = Judge(bench, fid=False)
    pipeline = bench.pipeline("ours")
    single = bench.export("ours", "onnx", "fp32")
    assert single is not None
    data = open_for(pipeline.unet, bench.arguments.data, origin(bench.arguments.ours))
    batch = noised_images(data, process_of(pipeline.scheduler), 128, with_labels=False)
    calibration = calibration_inputs(batch, CALIBRATION_BATCH)
    exact = bench.network(single, 1)(batch["sample"].numpy(), batch["timestep"].float().numpy())
    for name, kept in (("first and last in float", FLOAT_LAYERS), ("all in int8", ())):
        with tempfile.TemporaryDirectory() as place:
            path = Path(place) / "network.onnx"
            quantize_onnx(single / "network.onnx", path, calibration, kept)
            network, size = OPENERS["onnx"](path, 1), path.stat().st_size
        error = network(batch["sample"].numpy(), batch["timestep"].float().numpy()) - exact
        unet = Exported(network, pipeline.unet.config, None)
        loss = judge(DiffusionSamplingPipeline(unet, pipeline.scheduler))
        yield {"side": "ours", "variant": name, "bytes": size, "error": float(np.sqrt((error**2).mean())), **loss}


def bench_exported(
    bench: Bench, pipeline: DiffusionSamplingPipeline, folder: Path, threads: int | None = None
) -> DiffusionSamplingPipeline:
    info = json.loads((folder / "export.json").read_text(encoding="utf-8"))
    batch = info["inputs"][0]["shape"][0]
    network = bench.network(folder, threads or free_cores())
    unet = Exported(network, pipeline.unet.config, None if isinstance(batch, str) else batch)
    return DiffusionSamplingPipeline(unet, pipeline.scheduler)


class Judge:
    """Measures the validation loss on the images that our run held out, and the FID by the small classifier."""

    def __init__(self, bench: Bench, fid: bool = True) -> None:
        torch.set_num_threads(free_cores())
        arguments = bench.arguments
        known = origin(arguments.ours)
        data = open_for(bench.pipeline("ours").unet, arguments.data, known)
        count = min(known.config.data.num_validation or 256, len(data) // 2)
        self.data, self.held_out = train_validation_split(data, count, known.config.seed)
        self.seed, self.arguments, self.fid = known.config.seed, arguments, fid
        if not fid:
            return
        path, facts = bench.work / "classifier.safetensors", bench.work / "classifier.json"
        if not facts.is_file():
            print("classifier", flush=True)
            steps = arguments.extractor_steps
            trained = SmallClassifier.prepare(self.data, self.held_out, steps=steps, seed=0, device=CPU, path=path)
            facts.write_text(json.dumps(trained), encoding="utf-8")
        self.extractor = SmallClassifier(path, json.loads(facts.read_text(encoding="utf-8")), CPU)
        numbers = np.random.default_rng(0).permutation(len(self.data))[: arguments.samples].tolist()
        self.real = real_features(self.data, numbers, self.extractor, CPU)

    def __call__(self, pipeline: DiffusionSamplingPipeline) -> dict[str, Any]:
        task = GenerateTask(GenerateTraining(), process_of(pipeline.scheduler))
        loss = validate(task, pipeline.unet, self.held_out, seed=self.seed)["validation_loss"]
        return {"validation_loss": loss, **(self.samples(pipeline, 10) if self.fid else {})}

    def samples(self, pipeline: DiffusionSamplingPipeline, steps: int) -> dict[str, Any]:
        images = generate(fast_sampling(pipeline), self.arguments.samples, num_inference_steps=steps, batch_size=50)
        fake, _ = fake_features(images, self.extractor, CPU)
        fid = distances(self.real, fake).fid
        return {"fid": fid, "samples": self.arguments.samples, "extractor": self.extractor.name}


def operators(bench: Bench) -> Iterator[dict[str, Any]]:
    """Yields the share of each operator in ONNX Runtime's time, for float32 and int8 with one thread."""
    import onnxruntime

    for side in SIDES:
        for precision in ("fp32", "int8"):
            folder = bench.export(side, "onnx", precision)
            assert folder is not None
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads, options.log_severity_level = 1, 3
            options.enable_profiling = True
            with tempfile.TemporaryDirectory() as place:
                options.profile_file_prefix = str(Path(place) / "profile")
                session = onnxruntime.InferenceSession(folder / "network.onnx", options, ["CPUExecutionProvider"])
                config = bench.pipeline(side).unet.config
                shape = (1, config.in_channels, config.sample_size, config.sample_size)
                inputs = {"sample": np.zeros(shape, np.float32), "timestep": np.full(1, 500, np.float32)}
                for _ in range(bench.arguments.repeats):
                    session.run(None, inputs)
                events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
            spent: Counter[str] = Counter()
            for event in events:
                if event.get("cat") == "Node" and event["name"].endswith("kernel_time"):
                    spent[event["args"]["op_name"]] += event["dur"]
            for name, duration in spent.most_common(8):
                share = {"ms": duration / 1000 / bench.arguments.repeats, "ratio": duration / spent.total()}
                yield {"side": side, "variant": f"onnx {precision}", "threads": 1, "operator": name, **share}


PARTS: dict[str, Callable[[Bench], Iterator[dict[str, Any]]]] = {
    "exports": exports, "latency": latency, "sampling": sampling, "end_to_end": end_to_end, "operators": operators,
    "quality": quality, "solver_steps": solver_steps, "quantization_aware": quantization_aware,
    "float_layers": float_layers, "pruning": pruning,
}  # fmt: skip


def known_rows(output: Path) -> list[dict[str, str]]:
    return [{k: v for k, v in row.items() if v} for row in read(output / "deploy.csv")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", required=True, help="run or model: a continuous U-Net")
    parser.add_argument("--discrete", required=True, help="run or model: a UNet2DModel of the usual size")
    parser.add_argument("--data", required=True, help="what both were trained on")
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("runs/deploy-benchmark"),
        help="folder of exports, pruned models and the classifier",
    )
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", help="folder of the rows")
    parser.add_argument("--only", choices=list(PARTS), nargs="+", default=list(PARTS), help="parts to run")
    parser.add_argument("--repeats", type=int, default=50, help="timed rounds")
    parser.add_argument("--samples", type=int, default=1000, help="images of each FID")
    parser.add_argument("--batch-size", type=int, default=16, help="images at a time, end to end")
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds, end to end")
    parser.add_argument(
        "--finetune-steps", type=int, default=1000, help="training steps after pruning, and with int8 rounding"
    )
    parser.add_argument("--extractor-steps", type=int, default=1500, help="training steps of the classifier")
    arguments = parser.parse_args()
    bench = Bench(arguments)
    for part in arguments.only:
        rows = []
        for row in PARTS[part](bench):
            rows.append({"part": part, **row})
            print(
                ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in rows[-1].items()),
                flush=True,
            )
        kept = [row for row in known_rows(arguments.output) if row["part"] != part]
        order = list(PARTS)
        write(arguments.output / "deploy.csv", sorted([*kept, *rows], key=lambda row: order.index(row["part"])))


if __name__ == "__main__":
    main()
