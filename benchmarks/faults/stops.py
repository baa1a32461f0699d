"""Sends SIGINT and SIGTERM in every phase, a second one while saving, and to several verbs."""

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lab import (
    Child,
    Lab,
    checkpoint_paths,
    differences,
    fresh,
    newest_whole,
    resume_arguments,
    run,
    tiny,
    train_arguments,
    wait_until,
)

from continuous_unet.data import looking
from continuous_unet.evaluation.costs import profile as costs_profile
from continuous_unet.tasks.generate import pipeline as generation
from continuous_unet.training import checkpoints, outputs
from continuous_unet.training.trainer import Trainer

SIGNALS = (signal.SIGINT, signal.SIGTERM)
STEPS = {
    "steps": 12,
    "checkpoint_every": 6,
    "num_validation": 640,
    "validate_every": 6,
    "sample_every": 6,
    "num_samples": 64,
}


def slowly(owner: Any, name: str, marker: Path, call: int = 1, seconds: float = 0.05) -> Callable[[], None]:
    """Makes a function slow from its n-th call on and leave a mark, so that a signal can meet the phase."""

    def before() -> None:
        real, calls = getattr(owner, name), [0]

        def slow(*args: Any, **options: Any) -> Any:
            calls[0] += 1
            if calls[0] >= call:
                marker.touch()
                time.sleep(seconds)
            return real(*args, **options)

        setattr(owner, name, slow)

    return before


def phases(marker: Path) -> dict[str, Callable[[], None]]:
    """Returns what to slow down, by the name of its phase."""
    return {
        "looking at the data": slowly(looking, "is_grey", marker, seconds=0.5),
        "a step of training": slowly(Trainer, "take_step", marker, call=4),
        "validation": slowly(Trainer, "validate", marker, seconds=0.02),
        "the middle of validation": slowly(outputs, "validate", marker),
        "writing a checkpoint": slowly(checkpoints, "save_file", marker, seconds=0.3),
        "replacing the model": slowly(outputs, "replace_folder", marker, seconds=0.5),
        "sampling a grid": slowly(generation.DiffusionSamplingPipeline, "progress_bar", marker, seconds=0.2),
        "the last step's validation": slowly(outputs, "validate", marker, call=2, seconds=0.3),
        "the last grid": slowly(generation.DiffusionSamplingPipeline, "progress_bar", marker, call=5, seconds=0.2),
    }


def training(lab: Lab) -> None:
    reference = lab.folder / "reference"
    assert run(train_arguments(tiny(reference, **STEPS), lab.folder), lab.folder).code == 0
    names = list(phases(lab.folder / "x"))
    for name in names if not lab.short else ("the last grid",):
        bad, slowest, trials = [], 0.0, 0
        for number in SIGNALS if not lab.short else SIGNALS[:1]:
            trials += 1
            slug = f"{name.replace(' ', '-').replace(chr(39), '')}-{number}"
            output, marker = lab.folder / slug, lab.folder / f"{slug}.mark"
            child = Child(train_arguments(tiny(output, **STEPS), lab.folder), lab.folder, before=phases(marker)[name])
            if not wait_until(marker.exists, [child]):
                bad.append(f"{name} never came: {child.errors[-500:]}")
                continue
            time.sleep(lab.rng.uniform(0, 0.05))
            told = time.monotonic()
            child.send(number)
            code = child.wait()
            slowest = max(slowest, time.monotonic() - told)
            if code != 128 + number:
                bad.append(f"{number.name} during {name}: exit code {code}: {child.errors[-500:]}")
            if "Traceback" in child.errors:
                bad.append(f"{number.name} during {name}: {child.errors[-500:]}")
            arguments = train_arguments(tiny(output, **STEPS), lab.folder)
            resumed = run(resume_arguments(output) if (output / "config.yaml").exists() else arguments, lab.folder)
            bad += differences(output, reference) if resumed.code == 0 else [resumed.errors[-800:]]
        if slowest > 10:
            bad.append(f"took {slowest:.1f} s to leave")
        lab.row("signals", f"SIGINT and SIGTERM during {name}", trials, bad, f"left after at most {slowest:.1f} s")


def twice(lab: Lab) -> None:
    """Sends a second Ctrl-C while a checkpoint is being written, which takes seconds here."""
    bad, slowest = [], 0.0
    for attempt in range(lab.number(5, 1)):
        output, marker = lab.folder / f"twice-{attempt}", lab.folder / f"twice-{attempt}.mark"
        before = slowly(checkpoints, "save_file", marker, call=4, seconds=3)
        child = Child(train_arguments(tiny(output, **STEPS), lab.folder), lab.folder, before=before)
        wait_until(marker.exists, [child])
        child.send(signal.SIGINT)
        time.sleep(0.2)
        told = time.monotonic()
        child.send(signal.SIGINT)
        code = child.wait()
        slowest = max(slowest, time.monotonic() - told)
        if code != 130 or slowest > 2:
            bad.append(f"exit code {code} after {slowest:.1f} s: {child.errors[-500:]}")
        newest = newest_whole(output)
        if len(checkpoint_paths(output)) and newest is None:
            bad.append("no whole checkpoint is left")
        resumed = run(resume_arguments(output), lab.folder)
        bad += differences(output, lab.folder / "reference") if resumed.code == 0 else [resumed.errors[-800:]]
    lab.row("signals", "a second SIGINT while saving", lab.number(5, 1), bad, f"left after at most {slowest:.1f} s")


def verbs(lab: Lab) -> None:
    reference, photos = lab.folder / "reference", lab.folder / "photos"
    photos.mkdir()
    from PIL import Image

    for i in range(20):
        Image.new("L", (8, 8), i).save(photos / f"{i}.png")
    images = ["--num", "64", "--steps", "10", "--batch-size", "8"]
    step = (generation.DiffusionSamplingPipeline, "progress_bar")
    cases = {
        "sample to a folder": (["sample", str(reference), *images, "--output", str(lab.folder / "many")], step),
        "sample to a grid": (["sample", str(reference), *images, "--output", str(lab.folder / "g.png")], step),
        "data check": (["data", "check", str(photos)], (looking, "is_grey")),
        "profile": (
            ["profile", "tiny", "--repeats", "50"],
            (costs_profile, "measure_latency"),
        ),
    }
    for name, (arguments, slow) in cases.items():
        bad, slowest = [], 0.0
        for number in SIGNALS:
            marker = lab.folder / f"{name.replace(' ', '-')}-{number}.mark"
            before = slowly(*slow, marker, call=3 if "sample" in name else 1, seconds=0.3)
            child = Child([*arguments, "--overwrite"] if "sample" in name else arguments, lab.folder, before=before)
            wait_until(marker.exists, [child])
            told = time.monotonic()
            child.send(number)
            code = child.wait()
            slowest = max(slowest, time.monotonic() - told)
            if code != 128 + number or "Traceback" in child.errors:
                bad.append(f"{number.name}: exit code {code}: {child.errors[-500:]}")
        if "sample" in name:
            made = sorted((lab.folder / "many").glob("*")) if "folder" in name else list(lab.folder.glob("*g.png*"))
            for path in made:
                try:
                    Image.open(path).load()
                except Exception as error:
                    bad.append(f"{path} is not whole: {error}")
        lab.row("signals", f"SIGINT and SIGTERM to `cunet {name}`", 2, bad, f"left after at most {slowest:.1f} s")


def main(lab: Lab) -> None:
    fresh(lab.folder)
    training(lab)
    twice(lab)
    if not lab.short:
        verbs(lab)
