"""Measures what conditions cost: a class, a text and guidance beside the unconditional model. Nothing here is trained.

    python benchmarks/conditions.py     # rows to benchmarks/results/conditions.csv

The model is the preset `small` at 32x32x3; texts have 32 tokens of width 128. An evaluation is that of one sampling
step with precomputed embeddings, as the pipeline makes it; with guidance, one batch without and with the condition.
Without precomputed embeddings, every evaluation embeds timestep and condition again. All cases are timed in turns, and
ratios are to the unconditional model in the same round.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rows import write

from continuous_unet import ContinuousUNet2DModel
from continuous_unet.diffusion.guidance import Guidance
from continuous_unet.evaluation import count_macs, measure_latency
from continuous_unet.models import presets
from continuous_unet.tasks.generate import prediction
from continuous_unet.tasks.generate.request import Asked

CLASSES, WIDTH, TOKENS = 10, 128, 32
CASES = {"none": {}, "class": {"num_class_embeds": CLASSES + 1}, "text": {"cross_attention_dim": WIDTH}}


def conditions(case: str, seed: int) -> dict[str, torch.Tensor]:
    """Returns the condition of one image, or of all images of a batch."""
    if case == "text":
        generator = torch.Generator().manual_seed(seed)
        return {"encoder_hidden_states": torch.randn(1, TOKENS, WIDTH, generator=generator)}
    return {"class_labels": torch.tensor([seed])} if case == "class" else {}


def evaluation(model: Any, case: str, batch: int, scale: float) -> Callable[[], torch.Tensor]:
    """Returns one evaluation of a sampling step of a batch."""
    timesteps = torch.arange(999, 0, -20)
    free = conditions(case, CLASSES) if scale != 1 else {}
    asked = Asked(conditions(case, 0), free, Guidance(scale))
    predict = prediction.Predictor(model, asked, timesteps, 1000, batch)
    sample = torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return lambda: predict(sample, timesteps[len(timesteps) // 2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", help="folder of the rows")
    parser.add_argument("--repeats", type=int, default=30, help="timed rounds")
    arguments = parser.parse_args()
    models: dict[str, Any] = {}
    for case, changes in CASES.items():
        torch.manual_seed(0)
        models[case] = ContinuousUNet2DModel(**presets.small(sample_size=32), **changes).eval()
    rows = []
    with torch.no_grad():
        for batch in (1, 16):
            runs, facts = {}, {}
            for case, model in models.items():
                for scale in (1.0, 3.0) if case != "none" else (1.0,):
                    for precomputed in (True, False) if batch == 1 else (True,):
                        prediction.FEWEST_PRECOMPUTED = 4 if precomputed else 1_000_000
                        name = f"{case} {scale} {precomputed}"
                        runs[name] = evaluation(model, case, batch, scale)
                        facts[name] = {
                            "condition": case,
                            "guidance_scale": scale,
                            "batch_size": batch,
                            "precomputed": precomputed,
                            "parameters": model.num_parameters(),
                            "macs_per_image": count_macs(runs[name], strict=True).macs // batch,
                        }
            times = measure_latency(runs, repeats=arguments.repeats)
            for name, row in facts.items():
                time = times[name]
                row |= {"latency_ms": time.median_ms, "latency_ratio": time.ratio}
                row |= {"latency_ratio_p25": time.ratio_p25, "latency_ratio_p75": time.ratio_p75}
                row |= {"device": "cpu", "num_threads": torch.get_num_threads(), "torch": torch.__version__}
                rows.append(row)
                print(f"{name}, batch {batch}: {row['parameters']:,} parameters, ", end="")
                print(f"{row['macs_per_image'] / 1e6:.1f} M MACs, {time.median_ms:.2f} ms, {time.ratio:.3f}")
    write(arguments.output / "conditions.csv", rows)


if __name__ == "__main__":
    main()
