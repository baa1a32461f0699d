"""Measures the memory that a training step of a model of clips needs, by gradient mode and number of solver steps.

python benchmarks/video.py memory    # rows to benchmarks/results/video-memory.csv, half a minute
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from rows import write

RESULTS = Path(__file__).parent / "results"
SIZE, BATCH = (8, 32, 32), 4


def memory(options: argparse.Namespace) -> None:
    """Measures every mode and number of solver steps in a process of its own."""
    rows = []
    for steps in options.solver_steps:
        for gradient in ("backprop", "checkpoint", "reversible"):
            words = [sys.executable, __file__, "one", gradient, str(steps)]
            found = subprocess.run(words, capture_output=True, text=True, check=True)
            rows.append(json.loads(found.stdout))
            print(rows[-1], flush=True)
    write(options.rows or RESULTS / "video-memory.csv", rows)


def one(options: argparse.Namespace) -> None:
    """Prints what one training step holds, as JSON."""
    import torch

    from continuous_unet.evaluation.costs.memory import peak_memory, saved_bytes
    from continuous_unet.models.build import build_unet

    torch.set_num_threads(1)
    arguments = {"gradient": options.gradient, "num_solver_steps": options.steps, "in_channels": 1, "out_channels": 1}
    model = build_unet("clips", sample_size=SIZE, **arguments).train()
    sample, timestep = torch.randn(BATCH, 1, *SIZE), torch.full((BATCH,), 500)

    def step() -> None:
        model(sample, timestep).sample.square().mean().backward()

    saved = saved_bytes(lambda: model(sample, timestep).sample, parameters=list(model.parameters())).activations
    peak, how = peak_memory(step, device=torch.device("cpu"))
    row = {
        "model": f"clips, {BATCH} clips of {'x'.join(map(str, SIZE))}",
        "solver_steps": options.steps,
        "gradient": options.gradient,
        "saved_for_backward_bytes": saved,
        "peak_bytes": peak,
        "method": how,
    }
    print(json.dumps(row))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    measure = verbs.add_parser("memory")
    measure.add_argument("--solver-steps", type=int, nargs="+", default=[1, 2, 4, 8])
    measure.add_argument("--rows", type=Path)
    measure.set_defaults(call=memory)
    single = verbs.add_parser("one")
    single.add_argument("gradient")
    single.add_argument("steps", type=int)
    single.set_defaults(call=one)
    options = parser.parse_args()
    options.call(options)


if __name__ == "__main__":
    main()
