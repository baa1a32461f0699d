"""Restoration: the models that come with the package, what they reach, and the sides beside them.

    python benchmarks/restoration.py pack runs/denoise-grey     # a run of examples/ becomes a model of the package
    python benchmarks/restoration.py measure --data DIR         # rows to results/restoration.csv, then the model cards
    python benchmarks/restoration.py card                       # the model cards alone, from the rows
    python benchmarks/restoration.py sides --data DIR           # ours, the control, a discrete U-Net, trained alike
    python benchmarks/restoration.py noising --data MNIST       # the table of arXiv 2310.20092: quality by noising step
    python benchmarks/restoration.py peers --data DIR           # BM3D (if installed) and NL-means beside our denoiser
    python benchmarks/restoration.py jpeg --data DIR            # our upscalers on small images that were compressed
    python benchmarks/restoration.py photograph                 # peak memory and speed on a 12-megapixel photograph

DIR holds the sets of the literature, as folders: Train400, BSDS400-color, BSD68, Set12, Set5, Set14.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pretrained import PRETRAINED, RESULTS, ROOT, Figure, front_matter, keep_records, save_model, size_of
from rows import read, records, replace_rows, write

from continuous_unet.evaluation import measure_latency
from continuous_unet.evaluation.costs.macs import count_macs
from continuous_unet.evaluation.options import EvaluateDenoiseOptions, EvaluateUpscaleOptions
from continuous_unet.evaluation.quality.restoration import GaussianNoise, Quality, read_images
from continuous_unet.evaluation.quality.run import evaluate_denoising, evaluate_upscaling
from continuous_unet.tasks.loading import load_restorer, pretrained_models
from continuous_unet.training import TrainConfig, train

SETS = {
    "denoise-grey": ("BSD68", "Set12"),
    "denoise-colour": ("Set5", "Set14"),
    "upscale-x2": ("Set5", "Set14"),
    "upscale-x4": ("Set5", "Set14"),
}
"""The sets that each model of the package is measured on. It was trained on none of their images."""
TERMS = {
    "Train400": "400 grey images of 180x180 from the Berkeley set, as DnCNN was trained on; research use",
    "BSDS400-color": "400 photographs, train and test of BSDS500 without its validation part; research use",
}
HISTORY = {
    "denoise-grey": "It began with the weights of an earlier model of the package, which had seen 392,000 patches. ",
    "upscale-x2": "It began with the weights of an earlier model of the package, which had seen 20,000 patches. ",
    "upscale-x4": "It began with the weights of an earlier model of the package, which had seen 100,000 patches. ",
}
"""What the settings of a run do not show."""


def pack(run: Path) -> None:
    """A run's model, in half precision, to the package; its records to the results."""
    verb = "upscale" if (run / "model" / "scheduler").is_dir() else "denoise"
    pipeline = load_restorer(run, verb, dtype=torch.float16)
    save_model(pipeline, PRETRAINED / run.name)
    keep_records(run, run.name)
    print(f"{run.name}: {size_of(PRETRAINED / run.name) / 1e3:.0f} kB")


def restorers() -> list[str]:
    """The models of the package that restore."""
    return [name for name in pretrained_models() if name in SETS]


def measure(data: Path, names: list[str]) -> None:
    """Models of the package on the sets of their tasks, as `cunet evaluate` measures; rows of others are kept."""
    rows = []
    for name in names:
        for folder in SETS[name]:
            rows += evaluated(name.split("-")[0], name, data / folder)
    replace_rows(RESULTS / "restoration.csv", rows, "model")
    for name in names:
        card(name)


def evaluated(verb: str, name: str, folder: Path, **options: Any) -> list[dict[str, Any]]:
    """Rows of one model on one set, as `cunet evaluate` measures."""
    if verb == "denoise":
        result = evaluate_denoising(EvaluateDenoiseOptions(data=str(folder), model=[name], device="cpu", **options))
    else:
        result = evaluate_upscaling(EvaluateUpscaleOptions(data=str(folder), model=[name], device="cpu", **options))
    print(result.to_text(), flush=True)
    if result.stopped_by is not None:
        raise SystemExit(result.exit_code)
    for row in result.rows:
        row["peak_memory_shape"] = "x".join(map(str, row["peak_memory_shape"]))
    return [{**row, "data": folder.name, "num_threads": torch.get_num_threads()} for row in result.rows]


def share_of_jpeg(name: str) -> float:
    """The fraction of the training images of an upscaler that were compressed."""
    return float(TrainConfig.load(RESULTS / name / "config.yaml").flat()["jpeg_share"])


def card(name: str) -> None:
    """The model card, from what the run left and from the rows."""
    facts = json.loads((RESULTS / name / "run.json").read_text(encoding="utf-8"))
    last = [r for r in records(RESULTS / name) if "loss" in r][-1]
    rows = [row for row in read(RESULTS / "restoration.csv") if row["model"] == name]
    verb = name.split("-")[0]
    source = facts["data"]["source"]
    what = (
        f"This model removes white Gaussian noise from {name.split('-')[1]} images, up to sigma 55 on the 0–255 scale. "
        "It is blind: it does not need to know the sigma"
        if verb == "denoise"
        else f"This model enlarges the luma of photographs by a factor of {name[-1]}; the colour is enlarged by "
        "bicubic interpolation"
    )
    head = "sigma" if verb == "denoise" else "scale"
    table = [
        f"| {row['data']} | {float(row[head]):g} | {float(row['psnr']):.2f} | {float(row['ssim']):.4f} | "
        f"{float(row['input_psnr']):.2f} |"
        for row in rows
    ]
    command = "cunet denoise photo.png" if verb == "denoise" else f"cunet upscale photo.png --scale {name[-1]}"
    figures = [
        Figure("PSNR, dB", round(float(row["psnr"]), 2), f"{row['data']}, {head} {float(row[head]):g}") for row in rows
    ]
    lines = [
        front_matter(name, "image-to-image", [source], figures),
        f"# {name}",
        "",
        f"{what}. It is a `ContinuousUNet2DModel` with {facts['num_parameters']:,} parameters (preset `restorer`).",
        "",
        "```bash",
        f"{command} --output better.png",
        "```",
        "",
        "## How it was made",
        "",
        f"`cunet train --config examples/{name}.yaml --data {source}` trained it: {last['step']:,} training steps, "
        f"{last['images_seen']:,} patches, in {last['seconds'] / 60:.0f} minutes on a share of two CPU cores. "
        f"The data is {source} ({TERMS[source]}). The weights are the averages, in float16.",
        "",
        f"{HISTORY.get(name, '')}`cunet train --resume` with more `--steps` continues it.",
        "",
        "## What it reaches",
        "",
        "`python benchmarks/restoration.py measure` wrote this table. It measures as `cunet evaluate` does.",
        "",
        f"| set | {head} | PSNR, dB | SSIM | PSNR before, dB |",
        "| --- | --- | --- | --- | --- |",
        *table,
        "",
        "## Limits",
        "",
        (
            "The model is made for white Gaussian noise that was not clipped. The noise of compressed photographs is "
            "of another kind."
            if verb == "denoise"
            else "The model is made for images that were reduced by antialiased bicubic interpolation. Blur and noise "
            f"remain, and grow. {share_of_jpeg(name):.0%} of its training images were compressed as JPEG. "
            "`--mode sample` is refused, because it was trained for the answer in one evaluation alone."
        ),
        "",
    ]
    (PRETRAINED / name / "README.md").write_text("\n".join(lines), encoding="utf-8")


def side_models() -> dict[str, dict[str, Any]]:
    """Preset and options by the name of the side: one level of cost, as the MACs in the rows say."""
    blocks = {"down_block_types": ["DownBlock2D"] * 3, "up_block_types": ["UpBlock2D"] * 3, "layers_per_block": 1}
    discrete = {"block_out_channels": [16, 24, 32], "norm_num_groups": 8, "add_attention": False, **blocks}
    return {
        "continuous U-Net": {"preset": "restorer"},
        "continuous U-Net, gradient field": {"preset": "restorer", "model_options": {"field_type": "gradient"}},
        "weight-tied control": {"preset": "restorer", "model_options": {"block_type": "residual"}},
        "UNet2DModel": {"preset": "ddpm_small", "model_options": discrete},
    }


def sides(data: Path, steps: int, rate: float) -> None:
    """Denoisers trained alike for few steps; quality, cost, and speed in turns."""
    rows, models = [], {}
    kept = ("sigma", "images", "psnr", "ssim", "parameters", "peak_memory_bytes")
    with tempfile.TemporaryDirectory() as folder:
        for name, options in side_models().items():
            run = Path(folder) / name.replace(" ", "-")
            config = TrainConfig.load(ROOT / "examples" / "denoise-grey.yaml")
            lengths = {"steps": steps, "validate_every": steps, "sample_every": 10**9, "learning_rate": rate}
            places = {"data": str(data / "Train400"), "output": str(run), "device": "cpu"}
            result = train(config.replaced(**lengths, **places, **{"model_options": {}, **options}))
            models[name] = load_restorer(run, "denoise").unet
            image = torch.zeros(1, 1, 320, 480)
            macs = count_macs(models[name], image, 0).macs
            facts = {"side": name, "steps": steps, "learning_rate": rate, "macs_per_pixel": macs / image.numel()}
            for row in evaluated("denoise", str(run), data / "BSD68", num=24):
                rows.append({**facts, **{k: row[k] for k in kept}, "training_seconds": result.seconds})
    with torch.no_grad():
        times = measure_latency({n: lambda m=m: m(image, 0) for n, m in models.items()}, repeats=10)
    for row in rows:
        time_of = times[row["side"]]
        row["megapixels_per_second"] = image.numel() / 1e3 / time_of.median_ms
        row["latency_ratio"], row["num_threads"] = time_of.ratio, time_of.num_threads
    write(RESULTS / "restoration-sides.csv", rows)


def noising(data: Path, steps: int) -> None:
    """Two diffusion models trained alike; images noised to a timestep and brought back, in both modes."""
    discrete = {"block_out_channels": [24, 32, 32], "norm_num_groups": 8}
    kept = ("step", "sigma", "images", "mode", "psnr", "ssim", "lpips", "input_psnr", "input_ssim", "parameters")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, options in {
            "continuous U-Net": {"preset": "tiny"},
            "UNet2DModel": {"preset": "ddpm_small", "model_options": discrete},
        }.items():
            run = Path(folder) / name.replace(" ", "-")
            config = {
                "data": str(data), "output": str(run), "steps": steps, "image_size": 28, "channels": 1,
                "learning_rate": 4e-3, "ema_decay": 0.995, "device": "cpu", "sample_every": 10**9, "num_samples": 4,
                "sampling_steps": 5, **options,
            }  # fmt: skip
            train(TrainConfig.from_dict(config))
            for mode in ("mean", "sample"):
                found = evaluated(
                    "denoise", str(run), data, timesteps=[50, 100, 150, 200, 250, 400], num=100, mode=mode
                )
                rows += [{"side": name, "training_steps": steps, **{k: row[k] for k in kept}} for row in found]
    write(RESULTS / "restoration-noising.csv", rows)


Denoiser = Callable[[np.ndarray, float], np.ndarray]
"""A noisy image `(H, W)`, uint8, and its sigma on the 0–255 scale, to a clean one on that scale."""


def peer_denoisers() -> dict[str, Denoiser]:
    """Our blind denoiser, and those of other packages, which are told the sigma; BM3D only if it is installed.

    NL-means takes the settings that its documentation recommends for a known sigma (scikit-image), and the filter
    strength that was best on four images of Train400 (OpenCV: 0.85 sigma, of 0.6 to 1.4).
    """
    import cv2
    from skimage.restoration import denoise_nl_means

    cv2.setNumThreads(1)
    pipeline = load_restorer("denoise-grey", "denoise")

    def ours(noisy: np.ndarray, sigma: float) -> np.ndarray:
        image = torch.from_numpy(noisy.astype(np.float32) / 255)[None]
        return pipeline(image, output_type="pt").images[0][0].numpy() * 255

    def skimage(noisy: np.ndarray, sigma: float) -> np.ndarray:
        how = {"h": 0.8 * sigma / 255, "sigma": sigma / 255, "fast_mode": True, "patch_size": 5, "patch_distance": 6}
        return denoise_nl_means(noisy / 255, **how) * 255

    def opencv(noisy: np.ndarray, sigma: float) -> np.ndarray:
        return cv2.fastNlMeansDenoising(noisy, None, h=OPENCV_STRENGTH * sigma)

    found: dict[str, Denoiser] = {"denoise-grey": ours}
    try:
        from bm3d import bm3d
    except ImportError:
        print("bm3d is not installed: it is left out", flush=True)
    else:
        found["BM3D (bm3d)"] = lambda noisy, sigma: bm3d(noisy / 255, sigma_psd=sigma / 255) * 255
    return {**found, "NL-means (scikit-image)": skimage, "NL-means (OpenCV)": opencv}


OPENCV_STRENGTH = 0.85


def peers(data: Path, most: int | None) -> None:
    """Denoisers beside each other on noisy 8-bit files: PSNR, SSIM, and seconds of one processor core."""
    methods = peer_denoisers()
    rows = []
    for folder in SETS["denoise-grey"]:
        for sigma in (15.0, 25.0, 50.0):
            quality = {name: Quality() for name in methods}
            seconds = dict.fromkeys(methods, 0.0)
            pixels = 0
            for name, image in read_images(data / folder, 1, most):
                noisy = GaussianNoise(sigma).trial(name, image, 0).given
                file = (noisy[0] * 255).round().clamp(0, 255).to(torch.uint8).numpy()
                pixels += file.size
                for method, denoise in methods.items():
                    started = time.process_time()
                    restored = denoise(file, sigma)
                    seconds[method] += time.process_time() - started
                    rounded = np.round(restored).clip(0, 255).astype(np.float32)
                    quality[method].add(torch.from_numpy(rounded)[None], image * 255)
            for method in methods:
                means = quality[method].means()
                rows.append({
                    "method": method, "blind": method == "denoise-grey", "data": folder, "sigma": sigma,
                    "images": quality[method].count, "psnr": means["psnr"], "ssim": means["ssim"],
                    "cpu_seconds_per_megapixel": seconds[method] / pixels * 1e6,
                })  # fmt: skip
                print(rows[-1], flush=True)
    write(RESULTS / "restoration-peers.csv", rows)


def jpeg(data: Path) -> None:
    """Our upscalers on small images as they are, and compressed by JPEG."""
    kept = ("model", "data", "scale", "jpeg", "images", "psnr", "ssim", "input_psnr", "input_ssim")
    rows = []
    for name in restorers():
        if name.startswith("upscale"):
            for folder in SETS[name]:
                for quality in (None, 95, 75):
                    (row,) = evaluated("upscale", name, data / folder, jpeg=quality)
                    rows.append({key: row.get(key, "") for key in kept})
    write(RESULTS / "restoration-jpeg.csv", rows)


def photograph() -> None:
    """The command on grey photographs of 1 and 12 megapixels: the most memory that its process had, and its speed."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for verb, sizes in (("denoise", ((1000, 1000), (3000, 4000))), ("upscale", ((500, 500), (1500, 2000)))):
            for height, width in sizes:
                source, target = (Path(folder) / f"{verb}-{height}-{part}.png" for part in ("in", "out"))
                ramp = np.linspace(0, 200, width)[None] + np.random.default_rng(0).normal(0, 15, (height, width))
                Image.fromarray(ramp.clip(0, 255).astype(np.uint8)).save(source)
                begun = time.perf_counter()
                command = [sys.executable, "-m", "continuous_unet", verb, str(source), "-o", str(target)]
                process = subprocess.Popen(command)
                _, status, usage = os.wait4(process.pid, 0)
                seconds = time.perf_counter() - begun
                if status:
                    raise SystemExit(f"{' '.join(command)} failed")
                result = Image.open(target).size
                rows.append({
                    "verb": verb, "input": f"{width}x{height}", "output": f"{result[0]}x{result[1]}",
                    "process_peak_bytes": usage.ru_maxrss * 1024, "seconds": seconds,
                    "num_threads": torch.get_num_threads(),
                })  # fmt: skip
                print(rows[-1])
    write(RESULTS / "restoration-photograph.csv", rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ("pack", "measure", "card", "sides", "noising", "peers", "jpeg", "photograph")
    parser.add_argument("part", choices=parts)
    parser.add_argument("run", nargs="*", type=Path, help="pack: runs, named as the models; measure: some models")
    parser.add_argument("--data", type=Path, help="folder of the sets; noising: folder of MNIST")
    parser.add_argument("--steps", type=int, default=600, help="sides, noising: training steps of each side")
    parser.add_argument("--rate", type=float, default=4e-3, help="sides: learning rate")
    parser.add_argument("--most", type=int, help="peers: number of images of each set; all if left out")
    arguments = parser.parse_args()
    if arguments.data is None and arguments.part not in ("pack", "card", "photograph"):
        parser.error(f"{arguments.part} needs --data")
    calls: dict[str, Callable[[], object]] = {
        "pack": lambda: [pack(run) for run in arguments.run],
        "measure": lambda: measure(arguments.data, [str(name) for name in arguments.run] or restorers()),
        "card": lambda: [card(name) for name in restorers()],
        "sides": lambda: sides(arguments.data, arguments.steps, arguments.rate),
        "noising": lambda: noising(arguments.data, arguments.steps),
        "peers": lambda: peers(arguments.data, arguments.most),
        "jpeg": lambda: jpeg(arguments.data),
        "photograph": photograph,
    }
    calls[arguments.part]()


if __name__ == "__main__":
    main()
