"""Measures what the presets cost beside a discrete U-Net of the usual size, at 64x64x3. Nothing here is trained.

    python benchmarks/presets.py        # rows to benchmarks/results/presets.csv

The discrete side is diffusers' `UNet2DModel` with DDPM's architecture: widths 64 to 512, two residual blocks per level,
attention at 16x16. Forward passes of all sides are timed in turns. Ratios are to the discrete side in the same round.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DModel
from rows import write

from continuous_unet import ContinuousUNet2DModel
from continuous_unet.evaluation import measure_latency, profile_model
from continuous_unet.models import presets


def sides() -> dict[str, Any]:
    torch.manual_seed(0)
    discrete = UNet2DModel(
        sample_size=64,
        block_out_channels=(64, 128, 256, 512),
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    )
    return {
        "UNet2DModel (64, 128, 256, 512)": discrete,
        "preset paper": ContinuousUNet2DModel(**presets.paper(sample_size=64)),
        "preset base": ContinuousUNet2DModel(**presets.base(sample_size=64)),
        "preset base, 1 solver step": ContinuousUNet2DModel(**presets.base(sample_size=64)).set_solver(num_steps=1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", help="folder of the rows")
    parser.add_argument("--repeats", type=int, default=20, help="timed rounds")
    arguments = parser.parse_args()
    models = {name: model.eval() for name, model in sides().items()}
    sample = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        times = measure_latency(
            {name: lambda model=model: model(sample, 500) for name, model in models.items()}, repeats=arguments.repeats
        )
    rows = []
    for name, model in models.items():
        profile = profile_model(model, repeats=1)
        row = {"model": name, "sample_shape": "1x3x64x64", "parameters": profile.num_parameters, "macs": profile.macs}
        row |= {"evaluations": sum(profile.evaluations_per_block.values()) or ""}
        row |= {"saved_for_backward_bytes": profile.saved_for_backward_bytes}
        row |= {
            "peak_inference_bytes": profile.peak_memory_bytes,
            "peak_training_bytes": profile.peak_memory_training_bytes,
        }
        time = times[name]
        row |= {"latency_ms": time.median_ms, "latency_ratio": time.ratio}
        row |= {"latency_ratio_p25": time.ratio_p25, "latency_ratio_p75": time.ratio_p75}
        row |= {"device": profile.device, "num_threads": profile.num_threads, "torch": profile.torch_version}
        rows.append(row)
        print(f"{name}: {profile.num_parameters / 1e6:.1f} M parameters, {profile.macs / 1e9:.2f} G MACs, ", end="")
        print(f"latency {time.ratio:.3f} ({time.ratio_p25:.3f} to {time.ratio_p75:.3f}) of the discrete side")
    write(arguments.output / "presets.csv", rows)


if __name__ == "__main__":
    main()
