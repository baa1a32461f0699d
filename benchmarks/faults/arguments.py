"""Random arguments to every verb: no traceback, no partial output, and no exit code that is not documented."""

import contextlib
import io
import itertools
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from lab import Child, Lab, fresh, tiny, train_arguments, write_episodes
from lab import run as run_child
from PIL import Image

from continuous_unet.base.leaves import Leaf
from continuous_unet.base.options import leaves
from continuous_unet.cli.main import VERBS, load_verb
from continuous_unet.cli.main import main as cunet

Act = Callable[[list[str]], tuple[int, str, str]]
NUMBERS = ["", *shlex.split("-1 0 1 2 3 8 0.5 1e-3 1e38 nan inf -inf many none 0x10 1_0 ٣")]
WORDS = [
    "",
    " ",
    "none",
    "shapes",
    "digits",
    "tiny",
    "x",
    "-",
    "--",
    "ünï",
    "a=b",
    "=",
    "../x",
    "hf:",
    "hf:nothing/there",
]
HUGE = ["1000000000000", "99999999999999999999999"]
# Options for which a large number is not wrong, only long: none is tried.
LONG = set(
    shlex.split("""
    steps num repeats batch_size num_samples sampling_steps timesteps num_workers image_size sample_size
    solver_steps num_train_timesteps gradient_accumulation_steps num_validation channels budget curve_samples
    sampler_steps sweep_images extractor_steps num_seeds jobs resamples calibration_images importance_images
    checkpoint_every
    """)
)
SLOW = {"aoti"}
"""Choices that take a minute each, for a C++ compiler: not tried."""
RIGHT = {
    "data": ["photos", "shapes"],
    "output": ["new"],
    "config": ["good.yaml"],
    "model": ["run", "export"],
    "calibration_data": ["shapes", "photos"],
    "input": ["photos/0.png", "larger/0.png"],
    "observation": ["seen.npz"],
    "static_shape": ["1x8x8", "2x16x8", "1x9x7"],
    "sides": ["ours.yaml", "discrete"],
    "budget": ["images=64", "minutes=0.001"],
    "scheduler": ["ddim:1", "dpm++:2"],
    "jobs": ["1"],
    "num_seeds": ["1", "2"],
    "num_samples": ["1", "100"],
    "inputs": ["photos/0.png", "photos"],
    "mask": ["mask.png"],
    "sigma": ["auto", "5", "25"],
}
KEYS = [
    "num_solver_steps=0",
    "num_solver_steps=1",
    "method=magic",
    "method=heun",
    "gradient=reversible",
    "dropout=2",
    "block_out_channels=[8, 8]",
    "block_out_channels=[7]",
    "block_out_channels=8",
    "norm_num_groups=0",
    "x=1",
    "=1",
    "a",
    "field_type=general",
    "patch_size=2",
    "patch_size=-1",
    "act_fn=magic",
    "add_attention=maybe",
    "a=[",
    "preset=x",
    "time_embedding_dim=0",
    "layers_per_block=0",
    "num_class_embeds=0",
    "sample_size=3",
    "in_channels=5",
    "attention_head_dim=3",
    "integration_time=0",
    "down_block_types=[DownBlock2D]",
]


def values(leaf: Leaf, places: dict[str, str]) -> st.SearchStrategy[str]:
    """What may stand after an option: right values four times as often as wrong ones."""
    kinds = {getattr(kind, "__origin__", kind) for kind in leaf.kinds}
    right, wrong = ["1", "2", "3", "8"], NUMBERS if leaf.name in LONG else [*NUMBERS, *HUGE]
    if leaf.choices:
        right, wrong = [str(choice) for choice in leaf.choices if choice not in SLOW], ["magic", ""]
    elif leaf.name in RIGHT:
        right, wrong = [places.get(name, name) for name in RIGHT[leaf.name]], [*places.values(), *WORDS]
    elif dict in kinds:
        right, wrong = ["num_solver_steps=1", "method=heun", "gradient=checkpoint", "patch_size=2", "dropout=0.5"], KEYS
    elif float in kinds:
        right = ["0.5", "0.9", "1e-3"]
    elif str in kinds:
        right, wrong = ["cpu"], WORDS
    return st.one_of(*[st.sampled_from(right)] * 4, st.sampled_from(wrong))


def command_lines(verb: str, places: dict[str, str], base: list[str]) -> st.SearchStrategy[list[str]]:
    """Argument lists of a verb: options of its dataclass and wrong ones, in any order, on top of a good start."""
    common = ["--json", "--print-config", "--help", *(["--resume"] if load_verb(verb).resume else [])]
    options = [st.sampled_from(common).map(lambda flag: [flag])]
    options.append(st.sampled_from(["good.yaml", "bad.yaml", "odd.yaml"]).map(lambda name: ["--config", places[name]]))
    positional = []
    for leaf in leaves(load_verb(verb).options).values():
        if leaf.field.metadata.get("positional"):
            positional.append(values(leaf, places))
        elif bool in leaf.kinds:
            options.append(st.sampled_from([leaf.flag, f"--no-{leaf.flag[2:]}"]).map(lambda flag: [flag]))
        else:
            flags = [leaf.flag, *leaf.field.metadata.get("old", ())]
            pair = st.tuples(st.sampled_from(flags), values(leaf, places))
            options.append(pair.map(list) | pair.map(lambda p: [f"{p[0]}={p[1]}"]))
    wrong = st.sampled_from([["--bach-size", "3"], ["--steps"], ["-x"], ["--"], ["extra"], ["--step", "3"], [""]])
    chosen = st.lists(st.one_of(*options), max_size=4).map(lambda parts: list(itertools.chain(*parts)))
    some_wrong = st.one_of(*[st.just([])] * 9, wrong)
    good = st.tuples(st.just(base), chosen, some_wrong).map(lambda t: [*t[0], *t[1], *t[2]])
    any_ = st.tuples(st.lists(st.one_of(*positional), max_size=2) if positional else st.just([]), chosen, some_wrong)
    lines = st.one_of(good, good, good, any_.map(lambda t: [*t[0], *t[1], *t[2]]))
    return lines.map(lambda words: [*verb.split(), *words])


def problems(argv: list[str], code: int, out: str, err: str, before: set[Path], after: set[Path]) -> list[str]:
    """What is wrong with how a command line was dealt with."""
    found = []
    said = [line for line in err.replace("\r", "\n").splitlines() if line.startswith("cunet")]
    # of several files, some were done and some not: told on both streams
    partly = argv[0] in ("denoise", "upscale", "inpaint") and (" failed: " in out or '"failed": [\n' in out)
    failed = (
        "not finite" in err
        or "differs from PyTorch" in err
        or "not enough memory" in err
        or (argv[0] == "data" and " cannot" in out + err)
    )
    if code not in (0, 2) and not (code == 1 and (failed or '"unusable": [' in out)):
        found.append(f"exit code {code}")
    if "Traceback" in err or "internal error" in err:
        found.append("a traceback or an internal error")
    if code == 2 and not partly and (len(said) != 1 or out):
        found.append(f"not one line of error, but {said} and {out[:200]!r}")
    if code == 2 and not partly and after - before:
        found.append(f"refused, and left {sorted(map(str, after - before))[:5]}")
    if code == 0 and "--json" in argv and not {"--help", "-h", "--print-config"} & set(argv):
        try:
            json.loads(out)
        except ValueError:
            found.append(f"no JSON: {out[:200]!r}")
    found += [f"left over: {path}" for path in after - before if ".tmp" in path.name]
    return [f"{problem}: cunet {' '.join(map(repr, argv))}: {err[-600:]}" for problem in found]


def in_this_process(argv: list[str]) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cunet(argv)
    return code, out.getvalue(), err.getvalue()


def listing(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def make_places(folder: Path, made: Path) -> dict[str, str]:
    """What paths may lead to; each case begins with the same. `made` holds runs, and an export of one."""
    (folder / "photos").mkdir(parents=True)
    for i in range(4):
        Image.new("RGB", (8, 8), (i, i, i)).save(folder / "photos" / f"{i}.png")
    mask = Image.new("L", (8, 8))
    mask.paste(255, (0, 0, 4, 8))
    mask.save(folder / "mask.png")
    (folder / "larger").mkdir()
    Image.effect_noise((24, 16), 60).save(folder / "larger" / "0.png")
    np.savez(folder / "scan.npz", volume=np.random.default_rng(0).random((16, 24, 20)), spacing=[1.0, 2.0, 2.0])
    np.savez(folder / "seen.npz", observations=np.zeros((3, 4)))
    (folder / "spoilt").mkdir()
    (folder / "spoilt" / "a.png").write_text("no image")
    (folder / "empty").mkdir()
    (folder / "file.txt").write_text("text")
    (folder / "good.yaml").write_text("batch_size: 2\n")
    (folder / "bad.yaml").write_text("steps: [1\n")
    (folder / "odd.yaml").write_text("- 1\n")
    (folder / "ours.yaml").write_text("preset: tiny\nmodel_options: {block_out_channels: [8, 8]}\n")
    (folder / "loop").symlink_to("loop")
    names = (
        "ours.yaml",
        "photos",
        "photos/0.png",
        "mask.png",
        "larger",
        "scan.npz",
        "seen.npz",
        "spoilt",
        "empty",
        "file.txt",
        "good.yaml",
        "bad.yaml",
        "odd.yaml",
        "loop",
        "new",
        "new.png",
        "new.npz",
        "file.txt/x",
    )
    models = {name: str(made / name) for name in ("run", "export", "planner", "clips")}
    return models | {name: str(folder / name) for name in names}


def bases(places: dict[str, str]) -> dict[str, list[str]]:
    """A command line of each verb that works and is quick."""
    train = ["--data", "shapes", "--image-size", "8", "--preset", "tiny", "--steps", "1", "--batch-size", "2",
             "--num-samples", "1", "--sample-steps", "1", "--device", "cpu", "--output", places["new"],
             "--model-option", "block_out_channels=[8, 8]"]  # fmt: skip
    quick = (
        "--costs-only --no-compiled --repeats 1 --num-seeds 1 --budget images=32 --sweep-images 32 --sampler-steps 1"
    )
    few = "--num-samples 100 --curve-samples 100 --extractor-steps 1 --learning-rates 1e-3 --num-validation 8"
    few += " --scheduler ddim:1"
    compare = ["--data", "shapes", "--image-size", "8", "--device", "cpu", "--output", places["new"],
               "--sides", places["ours.yaml"], *shlex.split(f"{quick} {few}")]  # fmt: skip
    files = ["--device", "cpu", "--output", places["new.png"]]
    photo, run = places["photos/0.png"], places["run"]
    prune = shlex.split("--ratio 0.5 --steps 1 --batch-size 2 --num-validation 8 --importance-images 32 --device cpu")
    return {
        "denoise": [photo, "--model", run, "--steps", "2", *files],
        "upscale": [photo, *files],
        "inpaint": [photo, "--mask", places["mask.png"], "--model", run, *files,
                    *shlex.split("--steps 2 --jump-length 1 --resamples 1")],
        "evaluate generate": ["--data", "shapes", "--model", run, *shlex.split("--num 100 --extractor-steps 1"),
                              *shlex.split("--image-size 8 --sampling-steps 1 --device cpu")],
        "evaluate denoise": ["--data", places["larger"], "--num", "1", "--device", "cpu"],
        "evaluate upscale": ["--data", places["larger"], "--num", "1", "--device", "cpu"],
        "train": train,
        "distill": [run, "--data", "shapes", *shlex.split("--evaluations 1 --steps 1 --batch-size 2 --num-samples 4"),
                    *shlex.split("--device cpu --mixed-precision no"), "--output", places["new"]],
        "models": ["denoise-grey"],
        "plan": [places["planner"], places["seen.npz"], "--steps", "1", "--device", "cpu", "-o", places["new.npz"]],
        "volume": [places["clips"], places["scan.npz"], *shlex.split("--sigma 0.1 --patch 16 --overlap 4 --device cpu"),
                   "-o", places["new.npz"]],
        "schedule": [run, *shlex.split("--steps 1 2 --num 2 --batch-size 2 --device cpu")],
        "depths": [run, "--data", "shapes", *shlex.split("--solver-steps 1,2 --num 8 --device cpu")],
        "sample": [run, "--num", "1", "--steps", "1", *files],
        "compare": compare,
        "data check": [places["photos"]],
        "profile": ["tiny", "--repeats", "1", "--device", "cpu"],
        "export": [run, "--format", "torch", "--repeats", "0", "--output", places["new"]],
        "run": [places["export"], "--num", "2", "--steps", "1", "--output", places["new.png"]],
        "prune": [run, "--data", "shapes", *prune, "--output", places["new"]],
    }  # fmt: skip


def try_verb(lab: Lab, verb: str, made: Path, act: Act, cases: int, folder: Path) -> dict[str, Any]:
    """Try so many command lines of a verb; `act` runs one."""
    bad: list[str] = []
    codes: dict[str, int] = {}
    shutil.rmtree(folder, ignore_errors=True)
    places = make_places(folder, made)

    @seeded(lab.rng.randrange(2**32))
    @settings(
        max_examples=cases,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(command_lines(verb, places, bases(places)[verb]))
    def attempt(argv: list[str]) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        make_places(folder, made)
        before = listing(folder)
        os.chdir(folder / "empty")  # what is named without a folder lands where it is seen
        code, out, err = act(argv)
        codes[str(code)] = codes.get(str(code), 0) + 1
        bad.extend(problems(argv, code, out, err, before, listing(folder)))

    attempt()
    os.chdir(lab.folder)
    return {"trials": sum(codes.values()), "bad": bad, "codes": dict(sorted(codes.items()))}


UNTRIED = ("app", "app fetch")
"""Verbs that serve until they are stopped, and that need the network."""
SHARES = {"export": 0.2, "prune": 0.5}
"""Of the cases, for verbs whose commands take seconds."""


def campaign(lab: Lab, made: Path, act: Act, cases: int, prefix: str) -> dict[str, Any]:
    """Every verb; one that has no command line in `bases` fails the campaign."""
    return {
        verb: try_verb(
            lab,
            verb,
            made,
            act,
            max(4, round(cases * SHARES.get(verb, 1))),
            lab.folder / f"{prefix}-{verb.replace(' ', '-')}",
        )
        for verb in VERBS
        if verb not in UNTRIED
    }


def main(lab: Lab) -> None:
    fresh(lab.folder)
    made = lab.folder / "made"
    # one level and one solver step, so that an export takes seconds
    options = {"block_out_channels": [8], "norm_num_groups": 4, "num_solver_steps": 1, "add_attention": False}
    write_episodes(lab.folder / "episodes.npz")
    still = {"random_flip": False, "random_crop": False, "num_validation": 0}
    planner = {**still, "task": "plan", "data": str(lab.folder / "episodes.npz"), "image_size": None, "horizon": 8}
    clips = {**still, "task": "video", "data": "moving-digits", "frames": 4, "image_size": 16}
    for name, changes in (("run", {}), ("planner", planner), ("clips", clips)):
        config = tiny(made / name, **{"steps": 3, "model_options": options, **changes})
        trained = run_child(train_arguments(config, lab.folder), lab.folder)
        assert trained.code == 0, trained.errors
    export = ["export", str(made / "run"), "--repeats", "0", "--output", str(made / "export")]
    exported = run_child(export, lab.folder)
    assert exported.code == 0, exported.errors

    # Hundreds of command lines in one process; it is forked, because they compute.
    report = lab.folder / "report.json"
    cases = lab.number(300, 20)

    def try_all() -> None:
        report.write_text(json.dumps(campaign(lab, made, in_this_process, cases, "inside")))

    child = Child(["--version"], lab.folder, before=try_all)
    child.wait(patience=3600)
    if not report.exists():
        lab.row("arguments", "random arguments", 0, [f"it ended with {child.code}: {child.errors[-3000:]}"])
        return
    for verb, found in json.loads(report.read_text()).items():
        codes = ", ".join(f"{n} with exit code {code}" for code, n in found["codes"].items())
        lab.row("arguments", f"random arguments to `cunet {verb}`", found["trials"], found["bad"], codes)

    def real(argv: list[str]) -> tuple[int, str, str]:
        command = [sys.executable, "-m", "continuous_unet", *argv]
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=300)
        return done.returncode, done.stdout, done.stderr

    if not lab.short:
        found = campaign(lab, made, real, 10, "real")
        trials = sum(f["trials"] for f in found.values())
        lab.row("arguments", "the same as real processes", trials, [p for f in found.values() for p in f["bad"]])
