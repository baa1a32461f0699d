"""Compares solver steps unrolled in the exported graph with a loop: export time, size and latency.

python benchmarks/solver_loops.py            # rows to benchmarks/results/solver-loops.csv, a quarter of an hour
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch
from diffusers import DDPMScheduler
from rows import write

from continuous_unet import ContinuousUNet2DModel, DiffusionSamplingPipeline
from continuous_unet.deploy.export import export_model
from continuous_unet.deploy.options import ExportOptions
from continuous_unet.deploy.standalone import runtime
from continuous_unet.evaluation import measure_latency
from continuous_unet.models import presets

RESULTS = Path(__file__).parent / "results" / "solver-loops.csv"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--repeats", type=int, default=30)
    options = parser.parse_args()
    rows = []
    for steps in options.steps:
        torch.manual_seed(0)
        unet = ContinuousUNet2DModel(**presets.tiny(sample_size=16, num_solver_steps=steps))
        for parameter in unet.parameters():  # with layers that start at zero, every error would be zero
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.05)
        pipeline = DiffusionSamplingPipeline(unet.eval(), DDPMScheduler())
        with tempfile.TemporaryDirectory() as folder:
            models, made = {}, []
            for solver in ("unrolled", "loop")[: 1 if steps == 1 else 2]:
                target = Path(folder) / solver
                started = time.perf_counter()
                info = export_model(pipeline, ExportOptions(output=str(target), solver_loop=solver, repeats=0))
                seconds = time.perf_counter() - started
                models[solver] = runtime.load(target, threads=torch.get_num_threads())
                made.append((solver, info, seconds))
            x = runtime.normal_noise(0, 0, (1, 1, 16, 16))
            reference = {"torch": lambda x=x, unet=unet: unet(torch.tensor(x), 500)}
            calls = {name: (lambda model=model, x=x: model(x, 500)) for name, model in models.items()}
            with torch.inference_mode():
                times = measure_latency({**reference, **calls}, repeats=options.repeats)
        for solver, info, seconds in made:
            rows.append(
                {
                    "model": "tiny, 16x16",
                    "solver_steps": steps,
                    "solver": solver,
                    "nodes": sum(info["operators"].values()),
                    "size_bytes": info["size_bytes"],
                    "export_seconds": round(seconds, 1),
                    "latency_ms": round(times[solver].median_ms, 3),
                    "torch_ms": round(times["torch"].median_ms, 3),
                    "ratio": round(times[solver].ratio, 3),
                    "ratio_p25": round(times[solver].ratio_p25, 3),
                    "ratio_p75": round(times[solver].ratio_p75, 3),
                    "max_error": f"{info['parity']['max_error']:.1e}",
                    "num_threads": torch.get_num_threads(),
                }
            )
            print(rows[-1], flush=True)
        write(RESULTS, rows)


if __name__ == "__main__":
    main()
