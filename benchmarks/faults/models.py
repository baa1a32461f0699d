"""Tries hostile model files: each is refused in one line, before anything harmful is opened or allocated."""

import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import torch
from lab import Lab, fresh, one_line, own_peak_bytes, resume_arguments, run, tiny, train_arguments
from safetensors.numpy import load_file, save_file

WEIGHTS = Path("unet", "diffusion_pytorch_model.safetensors")
MOST_BYTES = 200 * 2**20
"""How much more memory a refusal may take than this process, from which it is forked."""


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def config(**changes) -> Callable[[Path, Path], object]:
    return lambda model, mark: edit(model / "unet" / "config.json", **changes)


def index(**changes) -> Callable[[Path, Path], object]:
    return lambda model, mark: edit(model / "model_index.json", **changes)


def scheduler(**changes) -> Callable[[Path, Path], object]:
    return lambda model, mark: edit(model / "scheduler" / "scheduler_config.json", **changes)


def header(change: Callable[[dict], object], pad: bytes = b"") -> Callable[[Path, Path], object]:
    """Rewrites the header of the weights; the bytes after it stay the same."""

    def make(model: Path, mark: Path) -> None:
        path = model / WEIGHTS
        content = path.read_bytes()
        (length,) = struct.unpack("<Q", content[:8])
        head = json.loads(content[8 : 8 + length])
        change(head)
        changed = json.dumps(head).encode() + pad
        path.write_bytes(struct.pack("<Q", len(changed)) + changed + content[8 + length :])

    return make


def tensors(change: Callable[[dict], object]) -> Callable[[Path, Path], object]:
    def make(model: Path, mark: Path) -> None:
        named = load_file(model / WEIGHTS)
        change(named)
        save_file(named, model / WEIGHTS)

    return make


def raw(name: str | Path, content: bytes) -> Callable[[Path, Path], object]:
    return lambda model, mark: (model / name).write_bytes(content)


def pickles_only(model: Path, mark: Path) -> None:
    (model / WEIGHTS).unlink()
    for name in ("diffusion_pytorch_model.bin", "diffusion_pytorch_model.pt", "pytorch_model.bin"):
        (model / "unet" / name).write_bytes(pickle.dumps(Trap(mark)))


def torch_pickle_only(model: Path, mark: Path) -> None:
    (model / WEIGHTS).unlink()
    torch.save({"conv_in.weight": Trap(mark)}, model / "unet" / "diffusion_pytorch_model.bin")


def shards_elsewhere(model: Path, mark: Path) -> None:
    (model / WEIGHTS).rename(model.parent / "outside.safetensors")
    where = {"conv_in.weight": "../../outside.safetensors"}
    content = {"metadata": {"total_size": 1}, "weight_map": where}
    (model / f"{WEIGHTS}.index.json").write_text(json.dumps(content))


def pipe(name: Path) -> Callable[[Path, Path], object]:
    return lambda model, mark: ((model / name).unlink(), os.mkfifo(model / name))


FIRST = "conv_in.weight"
HOSTILE: dict[str, Callable[[Path, Path], object]] = {
    "only pickles": pickles_only,
    "only a pickle of torch": torch_pickle_only,
    "pickle named .safetensors": lambda m, mark: (m / WEIGHTS).write_bytes(pickle.dumps(Trap(mark))),
    "shards outside the folder": shards_elsewhere,
    "header: other shape, same bytes": header(lambda h: h[FIRST].update(shape=h[FIRST]["shape"][::-1])),
    "header: 10^9 channels": header(lambda h: h[FIRST].update(shape=[10**9, 3, 3, 3])),
    "header: shape times type is not the bytes": header(lambda h: h[FIRST].update(shape=[1, 1])),
    "header: offsets beyond the file": header(lambda h: h[FIRST].update(data_offsets=[10**15, 10**15 + 4])),
    "header: offsets backwards": header(lambda h: h[FIRST].update(data_offsets=[100, 0])),
    "header: offsets that overlap": header(
        lambda h: h[FIRST].update(data_offsets=[0, h[FIRST]["data_offsets"][1] - h[FIRST]["data_offsets"][0]])
        if h[FIRST]["data_offsets"][0] else h["conv_out.bias"].update(data_offsets=[0, 12])),
    "header: negative shape": header(lambda h: h[FIRST].update(shape=[-1, 3, 3, 3])),
    "header: unknown type": header(lambda h: h[FIRST].update(dtype="F33")),
    "header: whole numbers for weights": header(lambda h: h[FIRST].update(dtype="I32")),
    "header: 2^60 bytes long": raw(WEIGHTS, struct.pack("<Q", 2**60) + b"{}"),
    "header: no JSON": raw(WEIGHTS, struct.pack("<Q", 8) + b"garbage!"),
    "header: deep": raw(WEIGHTS, struct.pack("<Q", 100_000) + b"[" * 100_000),
    "weights: empty file": raw(WEIGHTS, b""),
    "weights: one is missing": tensors(lambda t: t.pop(FIRST)),
    "weights: one too many": tensors(lambda t: t.update(extra=t[FIRST])),
    "weights: not finite": tensors(lambda t: t.update({FIRST: t[FIRST] * float("nan")})),
    "weights: a pipe": pipe(WEIGHTS),
    "config: 10^9 channels": config(block_out_channels=[10**9, 10**9]),
    "config: 60,000 channels": config(block_out_channels=[60_000, 60_000]),
    "config: 10^9 input channels": config(in_channels=10**9),
    "config: 10^9 solver steps": config(num_solver_steps=10**9),
    "config: 10^9 layers": config(layers_per_block=10**9),
    "config: 10^9 pixels wide": config(sample_size=10**9),
    "config: 10^9 classes": config(num_class_embeds=10**9),
    "config: 10^9 wide embedding": config(time_embedding_dim=10**9),
    "config: 10^6 levels": config(block_out_channels=[8] * 10**6),
    "config: negative": config(block_out_channels=[-8, -8]),
    "config: text for a number": config(block_out_channels="many"),
    "config: not a number": config(integration_time=float("nan")),
    "config: unknown class": config(_class_name="subprocess.Popen"),
    "config: a list": raw("unet/config.json", b"[1, 2]"),
    "config: no JSON": raw("unet/config.json", b"\x80\x04\x95"),
    "config: deep": raw("unet/config.json", b"[" * 10**6),
    "config: 10^5 digits": raw("unet/config.json", b'{"in_channels": ' + b"9" * 10**5 + b"}"),
    "config: a pipe": pipe(Path("unet", "config.json")),
    "config: 32 MB": raw("unet/config.json", b'{"a": "' + b"x" * 2**25 + b'"}'),
    "index: module os": index(unet=["os", "system"]),
    "index: a path": index(unet=["../evil", "Model"]),
    "index: code of the folder": index(unet=["evil", "Model"]),
    "index: another class of diffusers": index(unet=["diffusers", "AutoModel"]),
    "index: no scheduler": index(scheduler=["diffusers", "logging"]),
    "index: another scheduler's module": index(scheduler=["builtins", "ExecScheduler"]),
    "scheduler: 10^9 timesteps": scheduler(num_train_timesteps=10**9),
    "scheduler: 10^6 betas": scheduler(trained_betas=[0.1] * 10**6),
    "scheduler: unknown betas": scheduler(beta_schedule="magic"),
    "scheduler: unknown prediction": scheduler(prediction_type="magic"),
    "scheduler: text for a number": scheduler(num_train_timesteps="many"),
}  # fmt: skip


def main(lab: Lab) -> None:
    fresh(lab.folder)
    made = lab.folder / "made"
    assert run(train_arguments(tiny(made, steps=3), lab.folder), lab.folder).code == 0
    arguments = ["--num", "2", "--steps", "2", "--output"]
    model, mark = lab.folder / "model", lab.folder / "sprung"
    names = list(HOSTILE)
    for name in names if not lab.short else names[:: len(names) // 6]:
        shutil.rmtree(model, ignore_errors=True)
        shutil.copytree(made / "model", model)
        HOSTILE[name](model, mark)
        (model / "evil.py").write_text(f"open({str(mark)!r}, 'w')")
        output = fresh(lab.folder / "out") / "samples"
        child = run(["sample", str(model), *arguments, str(output)], lab.folder)
        bad = one_line(child, 2)
        if mark.exists():
            bad.append("the trap was sprung")
            mark.unlink()
        if output.exists():
            bad.append("something was written")
        more = child.peak_bytes - own_peak_bytes()
        if more > MOST_BYTES:
            bad.append(f"{more / 2**20:.0f} MiB were allocated")
        lab.row("models", name, 1, bad)
    beside(lab, made, model, mark)
    checkpoint(lab, made, mark)


def beside(lab: Lab, made: Path, model: Path, mark: Path) -> None:
    """Puts pickles beside good weights: the model is used, and the pickles are not opened."""
    shutil.rmtree(model, ignore_errors=True)
    shutil.copytree(made / "model", model)
    for name in ("diffusion_pytorch_model.bin", "diffusion_pytorch_model.pt", "pytorch_model.bin", "model.pkl"):
        (model / "unet" / name).write_bytes(pickle.dumps(Trap(mark)))
    child = run(
        ["sample", str(model), "--num", "1", "--steps", "2", "--output", str(lab.folder / "ok.png")], lab.folder
    )
    bad = [] if child.code == 0 and (lab.folder / "ok.png").exists() else [child.errors[-800:]]
    lab.row(
        "models",
        "pickles beside good weights: never opened",
        1,
        bad + (["the trap was sprung"] if mark.exists() else []),
    )


def checkpoint(lab: Lab, made: Path, mark: Path) -> None:
    """Makes checkpoints with correct hashes but contents of no run, and pickles beside them."""
    from continuous_unet.training.checkpoints import MANIFEST, _hash

    def swap(path: Path) -> None:
        named = load_file(path / "model.safetensors")
        name = next(k for k, v in named.items() if v.ndim == 1)
        named[name] = named[name][:1]  # would be spread over the whole parameter by copy_
        save_file(named, path / "model.safetensors")

    kinds: dict[str, Callable[[Path], object]] = {
        "weights of another shape": swap,
        "no weights": lambda p: save_file({}, p / "model.safetensors"),
        "moments of another model": lambda p: save_file({"x/exp_avg": load_file(p / "ema.safetensors")["conv_in.bias"]},
                                                        p / "optimizer.safetensors"),
        "state without a step": lambda p: (p / "state.json").write_text("{}"),
        "state that is a list": lambda p: (p / "state.json").write_text("[]"),
    }  # fmt: skip
    for name, change in kinds.items():
        output = lab.folder / f"run-{name.replace(' ', '-')}"
        shutil.copytree(made, output)
        (path,) = (output / "checkpoints").iterdir()
        (path / "evil.bin").write_bytes(pickle.dumps(Trap(mark)))
        change(path)
        names = json.loads((path / MANIFEST).read_text())
        (path / MANIFEST).write_text(json.dumps({n: _hash(path / n) for n in names}))
        arguments = resume_arguments(output, "--steps", "5")
        config_path = output / "config.yaml"
        config_path.write_text(config_path.read_text().replace(str(made), str(output)))
        bad = one_line(run(arguments, lab.folder), 2) + (["the trap was sprung"] if mark.exists() else [])
        lab.row("models", f"checkpoint: {name}", 1, bad)
