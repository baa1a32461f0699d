r"""Images per second on a CPU at equal FID: our models beside `UNet2DModel`, each in its best runtime.

    python benchmarks/distill.py measure ours=RUN ours-ect=RUN unet=RUN unet-ect=RUN --features FOLDER \
        --teacher-steps 5 10 20 --out FID.csv                     # FID by model and number of evaluations
    python benchmarks/end_to_end.py FID.csv ours=RUN unet=RUN     # rows to results/end-to-end.csv

The first command measures quality. This one measures the time of an evaluation: eager, compiled and in ONNX Runtime,
all networks in turns in one process, in batches. A model whose name begins with that of a network and a dash is a
student with that network. `tables.py` pairs rows of equal FID.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rows import read, write

from continuous_unet.deploy.export import export_model
from continuous_unet.deploy.options import ExportOptions
from continuous_unet.deploy.standalone import runtime
from continuous_unet.evaluation import measure_latency
from continuous_unet.tasks.loading import load_pipeline

RESULTS = Path(__file__).parent / "results" / "end-to-end.csv"
KEPT = ("data", "sampler", "evaluations", "parameters", "macs", "floor", "fid", "recall", "num_images", "extractor")


def functions_of(name: str, model: str, batch: int, folder: Path) -> dict[str, Callable[[], object]]:
    """Returns an evaluation of a network for a batch, by runtime."""
    pipeline = load_pipeline(model)
    unet: Any = pipeline.unet.eval().requires_grad_(False)
    channels, height, width = pipeline.image_shape
    sample = torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(0))
    timesteps = torch.linspace(1, 999, batch).round()
    labels = {} if unet.config.num_class_embeds is None else {"class_labels": torch.zeros(batch, dtype=torch.long)}
    options = ExportOptions(output=str(folder / name), repeats=0, static_shape=f"{batch}x{height}x{width}")
    export_model(pipeline, options)
    exported = runtime.load(folder / name, torch.get_num_threads())
    compiled = torch.compile(unet, dynamic=False)
    arrays = sample.numpy(), timesteps.numpy(), *(labels[key].numpy() for key in labels)

    def eager() -> None:
        with torch.no_grad():
            unet(sample, timesteps, **labels)

    def fast() -> None:
        with torch.no_grad():
            compiled(sample, timesteps, **labels)

    def onnx() -> np.ndarray:
        return exported(*arrays)

    return {f"{name}/eager": eager, f"{name}/compiled": fast, f"{name}/onnx": onnx}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path, help="rows of distill.py measure")
    parser.add_argument("networks", nargs="+", metavar="NAME=MODEL")
    parser.add_argument("--batch", type=int, default=16, help="number of images at a time")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    networks = dict(text.split("=", 1) for text in args.networks)
    found = read(args.rows)
    with tempfile.TemporaryDirectory() as folder:
        functions: dict[str, Callable[[], object]] = {}
        for name, model in networks.items():
            functions |= functions_of(name, model, args.batch, Path(folder))
        times = measure_latency(functions, repeats=args.repeats)
    rows = []
    for row in found:
        network = row["model"].partition("-")[0]
        if network not in networks:
            raise SystemExit(f"{row['model']} is a model of none of {', '.join(networks)}")
        own = {key.partition("/")[2]: value for key, value in times.items() if key.startswith(f"{network}/")}
        best = min(own, key=lambda key: own[key].median_ms)
        each = {f"{key}_ms": value.median_ms / args.batch for key, value in own.items()}
        rows.append({
            "model": row["model"], "network": network, "distilled": "-" in row["model"],
            **{key: row[key] for key in KEPT if key in row}, **each, "runtime": best,
            "images_per_second": 1000 / (int(row["evaluations"]) * each[f"{best}_ms"]),
            "batch_size": args.batch, "num_threads": args.threads,
        })  # fmt: skip
        print(
            f"{row['model']}, {row['evaluations']} evaluations: FID {float(row['fid']):.2f}, {best}, "
            f"{rows[-1]['images_per_second']:.1f} images/s"
        )
    write(args.out, rows)


if __name__ == "__main__":
    main()
