"""Runs two gloo processes: signals and bad numbers in one of them, kills of both, sampling, another number of them."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from lab import (
    PATIENCE,
    Child,
    Lab,
    checkpoint_paths,
    contents,
    differences,
    fresh,
    newest_whole,
    processes_environment,
    records,
    resume_arguments,
    run,
    tiny,
    train_arguments,
    wait_until,
)
from stops import slowly

from continuous_unet.tasks.generate import pipeline as generation
from continuous_unet.tasks.generate import training as learning
from continuous_unet.training import checkpoints, outputs
from continuous_unet.training.trainer import Trainer

STEPS = {
    "steps": 12,
    "batch_size": 2,
    "checkpoint_every": 6,
    "num_validation": 200,
    "sample_every": 6,
    "num_samples": 40,
}
Hook = Callable[[], None]


def start(arguments: list[str], lab: Lab, count: int = 2, befores: list[Hook] | None = None) -> list[Child]:
    """Starts processes as a launcher would, and runs a hook in each before it begins."""
    hooks = befores or [lambda: None] * count
    environments = processes_environment(count)
    return [Child(arguments, lab.folder, before=b, environment=e) for b, e in zip(hooks, environments)]


def run_all(arguments: list[str], lab: Lab, count: int = 2, befores: list[Hook] | None = None) -> list[Child]:
    children = start(arguments, lab, count, befores)
    wait_for_all(children)
    return children


def wait_for_all(children: list[Child]) -> None:
    """Waits until all have ended. Like a launcher, it ends the others some time after one has failed."""
    grace = 30.0
    while any([child.running() for child in children]):
        time.sleep(0.003)
        if any(child.code not in (None, 0) for child in children):
            grace -= 0.003
        if grace < 0 or time.monotonic() - children[0].started > PATIENCE:
            print(f"  hung: {[(child.code, child.errors[-2000:]) for child in children]}", file=sys.stderr)
            for child in children:
                child.send(signal.SIGKILL)


def failed(children: list[Child], code: int = 0) -> list[str]:
    return [f"exit code {c.code} instead of {code}: {c.errors[-800:]}" for c in children if c.code != code]


def same_losses(lab: Lab) -> Path:
    """Trains with the same global batch in one process and in two; returns the run folder of the two."""
    one, two = lab.folder / "one", lab.folder / "two"
    no_dropout = {"block_out_channels": [8, 8], "norm_num_groups": 4, "add_attention": False}
    for changes in ({}, {"gradient_accumulation_steps": 2}):
        fresh(one), fresh(two)
        config = tiny(one, **{**STEPS, "batch_size": 4}, model_options=no_dropout, **changes)
        alone = run(train_arguments(config, lab.folder), lab.folder)
        children = run_all(train_arguments(tiny(two, **STEPS, model_options=no_dropout, **changes), lab.folder), lab)
        bad = failed([alone, *children])
        losses = [[r["loss"] for r in records(output) if "loss" in r] for output in (one, two)]
        largest = max(abs(a / b - 1) for a, b in zip(*losses, strict=True))
        if largest > 1e-4:
            bad.append(f"losses differ by {largest:.1e}")
        name = "two processes, the losses of one" + (" (accumulation, no_sync)" if changes else "")
        lab.row("processes", name, len(losses[0]), bad, f"largest relative difference {largest:.0e}")
    fresh(two)
    assert not failed(run_all(train_arguments(tiny(two, **STEPS), lab.folder), lab))
    return two


def killed(lab: Lab, reference: Path) -> None:
    bad, count = [], lab.number(10, 1)
    for attempt in range(count):
        output = lab.folder / f"killed-{attempt}"
        children = start(train_arguments(tiny(output, **STEPS), lab.folder), lab)
        wait_until(lambda output=output: len(checkpoint_paths(output)) > 0, children)
        time.sleep(lab.rng.uniform(0, 0.5))
        for child in children:
            child.send(signal.SIGKILL)
        wait_for_all(children)
        bad += failed(run_all(resume_arguments(output), lab)) or differences(output, reference)
    lab.row("processes", "both killed, resumed, equal bit for bit", count, bad)


def one_is_told(lab: Lab, reference: Path) -> None:
    """Sends a signal to process 1 alone; process 0 leaves with it, and the run is resumed exactly."""

    def phases(marker: Path) -> dict[str, Hook]:
        return {
            "training": slowly(Trainer, "take_step", marker, call=3),
            "validation": slowly(outputs, "validate", marker, seconds=0.3),
            "saving": slowly(checkpoints, "save_file", marker, seconds=0.3),
            "sampling": slowly(generation.DiffusionSamplingPipeline, "progress_bar", marker, seconds=0.3),
        }

    for name in phases(Path()) if not lab.short else ("sampling",):
        bad, slowest, trials = [], 0.0, 0
        for number in (signal.SIGINT, signal.SIGTERM)[: lab.number(2, 1)]:
            output = lab.folder / f"told-{name}-{number}"
            marker = output.with_suffix(".mark")
            hooks = [phases(marker)[name]] * 2
            children = start(train_arguments(tiny(output, **STEPS), lab.folder), lab, befores=hooks)
            wait_until(marker.exists, children)
            told = time.monotonic()
            children[1].send(number)
            wait_for_all(children)
            slowest = max(slowest, time.monotonic() - told)
            bad += failed(children, 128 + number)
            bad += failed(run_all(resume_arguments(output), lab)) or differences(output, reference)
            trials += 1
        if slowest > 10:
            bad.append(f"took {slowest:.1f} s to leave")
        lab.row(
            "processes",
            f"a signal to one of two during {name}",
            trials,
            bad,
            f"both left after at most {slowest:.1f} s",
        )


def bad_numbers(lab: Lab) -> None:
    """Makes the loss of one image of process 1 not finite in some steps, then in every step."""

    def poison(steps: range) -> Hook:
        def before() -> None:
            real = learning.GenerateTask.loss

            def loss(self, step):
                value = real(self, step)
                return value * value.new_tensor([1.0, float("nan")]) if step.step + 1 in steps else value

            learning.GenerateTask.loss = loss

        return before

    output = lab.folder / "poisoned"
    hooks = [lambda: None, poison(range(3, 6))]
    children = run_all(train_arguments(tiny(output, **STEPS), lab.folder), lab, befores=hooks)
    bad = failed(children)
    left_out = [(r["step"], len(r["images"])) for r in records(output) if r.get("non_finite")]
    if left_out != [(3, 1), (4, 1), (5, 1)]:
        bad.append(f"steps and images left out: {left_out}")
    bad += _not_finite(output)
    lab.row(
        "processes", "a loss that is not finite in one of two", 3, bad, "3 steps left out by both, each image named"
    )

    output = lab.folder / "hopeless"
    hooks = [lambda: None, poison(range(5, 1000))]
    config = tiny(output, **{**STEPS, "steps": 40, "max_non_finite_steps": 4})
    children = run_all(train_arguments(config, lab.folder), lab, befores=hooks)
    bad = failed(children, 1) + _not_finite(output)
    if any("not finite in 4 steps in a row" not in child.errors or "Traceback" in child.errors for child in children):
        bad.append(children[0].errors[-800:])
    lab.row("processes", "the same without end", 1, bad, "both stopped after 4 in a row, with exit code 1")


def _not_finite(output: Path) -> list[str]:
    import numpy as np

    return [
        f"{path.name}: {name} is not finite"
        for path in checkpoint_paths(output)
        for name, value in contents(path)[0].items()
        if not np.isfinite(value).all()
    ]


def another_number(lab: Lab) -> None:
    """Trains with two processes, then one: it says that this is not exact, and sees each image once per epoch."""
    bad, output, log = [], lab.folder / "changed", lab.folder / "seen"
    log.mkdir()

    def watch() -> None:
        real = Trainer._batches

        def batches(self):
            for positions, batch in real(self):
                with (log / f"{os.getpid()}.jsonl").open("a") as file:
                    file.write(json.dumps([list(positions), batch["index"].tolist()]) + "\n")
                yield positions, batch

        Trainer._batches = batches

    # 46 images: two processes see 32 of them; one process sees the rest, and then those of the next epoch
    settings = {**STEPS, "steps": 8, "num_validation": 4096 - 46, "validate_every": 1000}
    bad += failed(run_all(train_arguments(tiny(output, **settings), lab.folder), lab, befores=[watch, watch]))
    alone = run(resume_arguments(output, "--steps", "40"), lab.folder, before=watch)
    bad += failed([alone])
    if "had 2 processes and now has 1" not in alone.errors or "not bit for bit" not in alone.errors:
        bad.append(f"it was not said: {alone.errors[-800:]}")
    seen: dict[int, int] = {}
    for path in log.iterdir():
        for line in path.read_text().splitlines():
            for position, index in zip(*json.loads(line), strict=True):
                if position in seen:
                    bad.append(f"position {position} was seen twice")
                seen[position] = index
    epochs = [sorted(seen.get(46 * epoch + i, -1) for i in range(46)) for epoch in range(2)]
    if any(epoch != list(range(46)) for epoch in epochs):
        bad.append(f"not each image once an epoch: {epochs}")
    lab.row("processes", "two processes, then one: each image once an epoch", 2, bad, "said not to be exact")


def sampling(lab: Lab, run_of_two: Path) -> None:
    """Samples in one, two and three processes, which gives the same bytes; then sends a signal to one of two."""
    bad = []
    options = ["--num", "21", "--steps", "3", "--batch-size", "4", "--device", "cpu"]
    for form in ("folder", "grid.png"):
        made = []
        for count in (1, 2, 3)[: lab.number(3, 2)]:
            output = lab.folder / f"samples-{count}" / form
            children = run_all(["sample", str(run_of_two), *options, "--output", str(output)], lab, count)
            bad += failed(children)
            files = sorted(output.iterdir()) if output.is_dir() else [output]
            made.append([path.read_bytes() for path in files])
        if len(made[0]) != (21 if form == "folder" else 1) or any(other != made[0] for other in made):
            bad.append(f"the images of {form} differ")
    lab.row("processes", "sampling in 1, 2 and 3 processes: the same bytes", 6, bad)

    bad, marker = [], lab.folder / "sampling.mark"
    hook = slowly(generation.DiffusionSamplingPipeline, "progress_bar", marker, call=2, seconds=0.3)
    arguments = ["sample", str(run_of_two), *options, "--output", str(lab.folder / "told")]
    children = start(arguments, lab, befores=[hook, hook])
    wait_until(marker.exists, children)
    told = time.monotonic()
    children[1].send(signal.SIGTERM)
    wait_for_all(children)
    seconds = time.monotonic() - told
    bad += failed(children, 143)
    lab.row("processes", "a signal to one of two that sample", 1, bad, f"both left after {seconds:.1f} s")


def full_disk(lab: Lab) -> None:
    """Fills the disk of the main process, which alone writes; both say why they leave."""

    def full() -> None:
        def fail(*args, **options):
            raise OSError(28, "No space left on device")

        checkpoints.save_file = fail

    output = lab.folder / "full"
    children = run_all(train_arguments(tiny(output, **STEPS), lab.folder), lab, befores=[full, full])
    bad = failed(children, 2)
    if newest_whole(output) is not None or any("No space left" not in child.errors for child in children):
        bad.append(children[1].errors[-800:])
    lab.row("processes", "a full disk (injected), seen by one of two", 1, bad, "both left with exit code 2")


def main(lab: Lab) -> None:
    fresh(lab.folder)
    if lab.short:
        reference = lab.folder / "two"
        assert not failed(run_all(train_arguments(tiny(reference, **STEPS), lab.folder), lab))
    else:
        reference = same_losses(lab)
        killed(lab, reference)
        another_number(lab)
        full_disk(lab)
    one_is_told(lab, reference)
    bad_numbers(lab)
    sampling(lab, reference)
