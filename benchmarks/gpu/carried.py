"""The state of a training in small files, so that it can go on on another machine.

Weights and their average are float16, the first moment of AdamW bfloat16, and the root of the second one has eight
bits: 7 bytes a parameter, in files of at most 16 MiB for up to 8 M parameters. The training goes on nearly, not
exactly, as it would have.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from continuous_unet.training.checkpoints import latest_valid, load_checkpoint, save_checkpoint

MOST_PARAMETERS = 8_000_000
SMALLEST = 2.0**-16
"""The smallest positive value of float8_e5m2, relative to the largest one of a tensor."""
Named = dict[str, torch.Tensor]


def carry(run: Path, folder: Path) -> bool:
    """Writes the newest checkpoint of a run in small files; returns False for a model that is too large."""
    path = latest_valid(run / "checkpoints")
    if path is None:
        return False
    tensors, state = load_checkpoint(path)
    if sum(t.numel() for t in tensors["model"].values()) > MOST_PARAMETERS:
        return False
    aside = folder.with_name(folder.name + ".part")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    first = {name: t.bfloat16() for name, t in tensors["optimizer"].items() if name.endswith("/exp_avg")}
    second, rest = {}, {}
    for name, tensor in tensors["optimizer"].items():
        if name.endswith("/exp_avg_sq"):
            root = tensor.sqrt()
            scale = root.max().clamp(min=1e-30)
            second[name] = (root / scale).clamp(min=SMALLEST).to(torch.float8_e5m2)
            rest[f"{name}/scale"] = scale[None]
        elif name not in first:
            rest[name] = tensor
    half = {file: {n: t.half() for n, t in tensors[file].items()} for file in ("model", "ema") if file in tensors}
    for file, named in {**half, "first": first, "second": second, "rest": rest}.items():
        save_file({name: tensor.contiguous() for name, tensor in named.items()}, aside / f"{file}.safetensors")
    (aside / "state.json").write_text(json.dumps(state), encoding="utf-8")
    for name in ("config.yaml", "run.json", "metrics.jsonl"):
        shutil.copy(run / name, aside / name)
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)
    return True


def unpack(folder: Path, run: Path) -> None:
    """Makes a run folder of what `carry` wrote."""
    run.mkdir(parents=True, exist_ok=True)
    for name in ("config.yaml", "run.json", "metrics.jsonl"):
        shutil.copy(folder / name, run / name)
    files: dict[str, Named] = {path.stem: load_file(path) for path in folder.glob("*.safetensors")}
    state: dict[str, Any] = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    rest = files["rest"]
    optimizer = {name: tensor for name, tensor in rest.items() if not name.endswith("/scale")}
    optimizer |= {name: tensor.float() for name, tensor in files["first"].items()}
    for name, tensor in files["second"].items():
        optimizer[name] = (tensor.float() * rest[f"{name}/scale"]).square()
    whole = {file: {n: t.float() for n, t in files[file].items()} for file in ("model", "ema") if file in files}
    save_checkpoint(run / "checkpoints", state["step"], {**whole, "optimizer": optimizer}, state)
