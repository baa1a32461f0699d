"""Export a trained model to run elsewhere, and prove that it computes the same.

cunet export --model runs/digits --format onnx --output exported
cunet export --model runs/digits --format openvino --precision fp16 --static-shape 1x16x16 --output exported

The folder holds the network, export.json (shapes, schedule, errors against PyTorch, latency) and runtime.py, which runs
it without torch. Exit code 1 if the error is above the tolerance; nothing is left then.
"""

import argparse
import dataclasses

import yaml

from continuous_unet.cli.old_arguments import add_fields, make_options, print_json, read_config
from continuous_unet.deploy.options import ExportOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", metavar="RUN_OR_MODEL", required=True, help="a run folder of `cunet train`, or a saved model"
    )
    add_fields(parser, ExportOptions)
    parser.add_argument("--json", action="store_true", help="print export.json")


def run(arguments: argparse.Namespace) -> int:
    options = make_options(ExportOptions, arguments, read_config(arguments.config, ExportOptions))
    if arguments.print_config:
        print(yaml.safe_dump(dataclasses.asdict(options), sort_keys=False), end="")
        return 0
    options.validate()

    from continuous_unet.deploy.export import export_model

    info = export_model(arguments.model, options)
    if arguments.json:
        print_json(info)
        return 0
    parity = info["parity"]
    print(f"{options.output}: {info['format']}, {info['precision']}, {info['size_bytes'] / 2**20:.2f} MiB")
    print(f"error against PyTorch {parity['max_error']:.1e} (tolerance {parity['tolerance']:.1e})", end="")
    if "full_sampling" in parity:
        sampling = parity["full_sampling"]
        print(f", over {sampling['steps']} sampling steps {sampling['max_error']:.1e}", end="")
    print()
    if "latency" in info:
        latency = info["latency"]
        print(
            f"latency {latency['exported_ms']:.2f} ms, PyTorch {latency['torch_eager_ms']:.2f} ms: "
            f"{latency['ratio']:.2f} of it ({latency['ratio_p25']:.2f} to {latency['ratio_p75']:.2f})"
        )
    return 0
