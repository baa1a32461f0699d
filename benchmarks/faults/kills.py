"""Sends SIGKILL at random instants of training and saving; stops and resumes single runs in every setting."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from lab import (
    Child,
    Lab,
    checkpoint_paths,
    differences,
    fresh,
    newest_whole,
    records,
    resume_arguments,
    run,
    same,
    tiny,
    train_arguments,
    write_episodes,
)
from PIL import Image

from continuous_unet.training.checkpoints import find_damage

KEEP_ALL = ["--keep-checkpoints", "1000"]


def phase_of(output: Path) -> str:
    """Returns what a killed process was doing, judged by the files that it left."""
    if list((output / "checkpoints").glob("*.tmp-*")):
        return "writing a checkpoint"
    if (output / "model.tmp").exists() or (output / "model.old").exists():
        return "replacing the model"
    return "training" if (output / "checkpoints").exists() else "before the first checkpoint"


def kills(lab: Lab) -> None:
    """Kills and resumes runs until they are done; compares each kill with the run that nobody killed."""
    reference = lab.folder / "reference"
    steps = lab.number(30, 15)
    child = run([*train_arguments(tiny(reference, steps=steps), lab.folder), *KEEP_ALL], lab.folder)
    assert child.code == 0, child.errors
    wanted = lab.number(60, 4)
    bad: list[str] = []
    phases: dict[str, int] = {}
    count = chains = lost_bytes = redone = 0
    while count < wanted:
        output = lab.folder / f"victim-{chains}"
        chains += 1
        arguments = train_arguments(tiny(output, steps=steps), lab.folder)
        before, finished = -1, False
        while not finished:
            child = Child(arguments, lab.folder)
            if count < wanted:
                _kill_sometime(child, lab, output)
            finished = child.wait() == 0
            if finished:
                break
            if child.code != -9:
                bad.append(f"exit code {child.code} instead of a kill: {child.errors[-800:]}")
                break
            count += 1
            phase = phase_of(output)
            phases[phase] = phases.get(phase, 0) + 1
            newest = newest_whole(output)
            lost_bytes += sum(
                f.stat().st_size for p in checkpoint_paths(output) if find_damage(p) for f in p.iterdir() if f.is_file()
            )
            step = -1 if newest is None else int(newest.name.removeprefix("step-"))
            if step < before:
                bad.append(f"kill {count} while {phase}: a checkpoint of step {before} was there, and now {step}")
            if newest is not None and not same(newest, reference / "checkpoints" / newest.name):
                bad.append(f"kill {count} while {phase}: {newest} is not that of the run that nobody killed")
            if (output / "metrics.jsonl").exists():
                redone += max((r["step"] for r in records_so_far(output)), default=0) - max(step, 0)
            before = step
            arguments = resume_arguments(output) if (output / "config.yaml").is_file() else arguments
        if finished:
            bad += differences(output, reference)
    spread = ", ".join(f"{n} while {phase}" for phase, n in sorted(phases.items()))
    figures = (
        f"{spread}; {chains} runs finished; {lost_bytes} bytes lost; {redone / count:.1f} steps computed again a kill"
    )
    lab.row("kills", "SIGKILL at a random instant, resumed, equal bit for bit", count, bad, figures)


def _kill_sometime(child: Child, lab: Lab, output: Path) -> None:
    """Kills at a random time; in 60 % of the cases, it then waits until something is being saved."""
    until = time.monotonic() + lab.rng.uniform(0.2, 2.0)
    at_once_when_saving = lab.rng.random() < 0.6
    while child.running() and time.monotonic() < until:
        time.sleep(0.0005)
    while (
        at_once_when_saving
        and child.running()
        and phase_of(output) not in ("writing a checkpoint", "replacing the model")
    ):
        time.sleep(0.0002)
    time.sleep(lab.rng.uniform(0, 0.012) if at_once_when_saving else 0)
    child.send(9)


def records_so_far(output: Path) -> list[dict]:
    """Returns the records of a run whose last line may be cut off."""
    whole = [line for line in (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines() if line.endswith("}")]
    import json

    return [json.loads(line) for line in whole]


def kills_of_the_program(lab: Lab) -> None:
    """Does the same to `python -m continuous_unet`, started as a user would and not forked."""
    reference = lab.folder / "reference-program"
    settings = {"steps": 200, "checkpoint_every": 2, "validate_every": 50, "sample_every": 100}
    assert run([*train_arguments(tiny(reference, **settings), lab.folder), *KEEP_ALL], lab.folder).code == 0
    bad, killed, output = [], 0, lab.folder / "program"
    arguments = train_arguments(tiny(output, **settings), lab.folder)
    for attempt in range(lab.number(8, 1) + 1):
        process = subprocess.Popen(
            [sys.executable, "-m", "continuous_unet", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        seen = len(checkpoint_paths(output)) and newest_whole(output)
        while attempt < lab.number(8, 1) and process.poll() is None and newest_whole(output) == (seen or None):
            time.sleep(0.01)
        if attempt < lab.number(8, 1) and process.poll() is None:
            time.sleep(lab.rng.uniform(0, 0.3))
            process.kill()
            killed += 1
        _, errors = process.communicate()
        if process.returncode not in (0, -9):
            bad.append(f"exit code {process.returncode}: {errors[-500:]!r}")
        arguments = resume_arguments(output)
    bad += differences(output, reference)
    lab.row("kills", "the same to `python -m continuous_unet`", killed, bad)


SETTINGS: dict[str, dict[str, Any]] = {
    "across the end of an epoch": {"num_validation": 4085},
    "accumulation": {"gradient_accumulation_steps": 2},
    "2 data workers": {"num_workers": 2},
    "accumulation, 2 data workers, across epochs": {
        "gradient_accumulation_steps": 2, "num_workers": 2, "num_validation": 4085,
    },
    "constant memory (reversible), v prediction, min-SNR, classes": {
        "objective": "v_prediction", "min_snr_gamma": 5.0, "class_conditional": True,
        "model_options": {"block_out_channels": [8, 8], "norm_num_groups": 4, "gradient": "reversible"},
    },
    "crops of images that are not square": {"data": "photos", "num_validation": 0},
    "crops, 2 data workers, accumulation": {
        "data": "photos", "num_validation": 0, "num_workers": 2, "gradient_accumulation_steps": 2,
    },
    "bfloat16": {"mixed_precision": "bf16"},
    "elastic depth": {"model_options": {"block_out_channels": [8, 8], "norm_num_groups": 4}, "solver_steps": "1,2"},
    "a denoiser": {"task": "denoise", "random_crop": None},
    "an upscaler": {"task": "upscale", "scale": 2, "image_size": 16, "random_crop": None},
    "a codec": {
        "task": "codec", "preset": None, "model_options": None, "factor": 2, "latent_channels": 2, "widths": [4],
        "blocks": [0, 1],
    },
    "a planner": {
        "task": "plan", "data": "episodes.npz", "image_size": None, "random_flip": False, "random_crop": False,
        "num_validation": 1, "horizon": 8, "model_options": {"block_out_channels": [8, 8], "norm_num_groups": 4},
    },
    "clips": {
        "task": "video", "data": "moving-digits", "frames": 4, "image_size": 16, "random_flip": False,
        "random_crop": False,
    },
    "a student": {
        "task": "distill", "start_from": "reference", "model_options": {}, "method": "sfd", "evaluations": 2,
        "random_crop": False,
    },
}  # fmt: skip
MADE = ("photos", "episodes.npz", "reference")
"""What the campaign makes in its folder, and settings name."""


def settings(lab: Lab) -> None:
    """Checks in every setting and for every task that N steps, a kill and N more steps equal 2N steps."""
    photos = lab.folder / "photos"
    photos.mkdir()
    for i in range(30):
        pixels = np.random.default_rng(i).integers(0, 256, (10, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(photos / f"{i}.png")
    write_episodes(lab.folder / "episodes.npz")
    for name, changes in SETTINGS.items():
        changes = {key: str(lab.folder / value) if value in MADE else value for key, value in changes.items()}
        slug = name.replace(",", "").replace(" ", "-")
        whole, part = lab.folder / f"whole-{slug}", lab.folder / f"part-{slug}"
        child = run(train_arguments(tiny(whole, steps=12, **changes), lab.folder), lab.folder)
        assert child.code == 0, f"{name}: {child.errors[-800:]}"
        child = Child(train_arguments(tiny(part, steps=12, **changes), lab.folder), lab.folder)
        while child.running() and not (part / "checkpoints" / "step-00000006").exists():
            time.sleep(0.001)
        child.send(9)
        killed = child.wait() == -9
        resumed = run(resume_arguments(part), lab.folder)
        bad = differences(part, whole) if resumed.code == 0 and killed else [f"{child.code}, {resumed.errors[-800:]}"]
        lab.row("kills", f"killed and resumed: {name}", 1, bad)


def main(lab: Lab) -> None:
    fresh(lab.folder)
    kills(lab)
    if not lab.short:
        settings(lab)
        kills_of_the_program(lab)


__all__ = ["main", "records"]
