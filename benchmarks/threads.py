"""Trainings on a CPU that share it: one alone, two at once, and one beside a busy process without OpenMP.

    python benchmarks/threads.py        # rows to benchmarks/results/threads.csv, about seven minutes

Each setting of how threads wait for each other has two processes, which train the model of `examples/digits.yaml` for
some seconds when they are asked to, and sleep otherwise. All settings and situations take turns. `torch` leaves the
environment as it is; `passive` is `OMP_WAIT_POLICY=PASSIVE`; `cunet` is what `cunet train` does: it bounds the waiting,
and leaves other programs the cores that they need. Each measurement begins after three seconds of training, in which
`cunet` has looked at the cores.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from rows import write

from continuous_unet.base.threads import COUNTS, WAITING, CoreShare, prepare_threads, usable_cores

SETTINGS = ("torch", "passive", "cunet")
SITUATIONS = ("alone", "two at once", "beside a busy process")
BATCH = 32
LEAD = 3.0
"""Seconds of training before each measurement."""
BUSY = "import time\nend = time.perf_counter() + {}\nwhile time.perf_counter() < end: pass"


def environment_of(setting: str) -> dict[str, str]:
    """Returns the environment of a training; a number is one of `GOMP_SPINCOUNT`, to look for a good one."""
    environment = {key: value for key, value in os.environ.items() if key not in (*WAITING, *COUNTS)}
    if setting == "passive":
        environment["OMP_WAIT_POLICY"] = "PASSIVE"
    elif setting == "cunet":
        prepare_threads(environment)
    elif setting != "torch":
        environment["GOMP_SPINCOUNT"] = setting
    return environment


def train() -> None:
    """Trains for as many seconds as each line of the input says, and prints the images per second of each."""
    import torch

    from continuous_unet import ContinuousUNet2DModel
    from continuous_unet.diffusion.options import VariancePreservingOptions
    from continuous_unet.models import presets

    size = int(os.environ["THREADS_IMAGE_SIZE"])
    arguments = presets.PRESETS[os.environ["THREADS_PRESET"]](sample_size=size)
    torch.manual_seed(0)
    model = ContinuousUNet2DModel(**{**arguments, "in_channels": 1, "out_channels": 1}).train()
    process = VariancePreservingOptions().make()
    optimizer = torch.optim.AdamW(model.parameters())
    clean = torch.randn(BATCH, 1, size, size)

    def step() -> None:
        times = process.draw_times(torch.rand(BATCH))
        noised = process.add_noise(clean, torch.randn_like(clean), times)
        torch.nn.functional.mse_loss(model(noised.x_t, times).sample, noised.target).backward()
        optimizer.step()
        optimizer.zero_grad()

    for _ in range(3):
        step()
    print(torch.get_num_threads(), torch.__version__, flush=True)
    for line in sys.stdin:
        cores = CoreShare(torch.get_num_threads()) if "THREADS_SHARE" in os.environ else None
        begun, started, count, elapsed = time.perf_counter(), None, 0, 0.0
        while elapsed < float(line):
            threads = cores.look() if cores else None
            if threads:
                torch.set_num_threads(threads)
            step()
            if started is None:
                started = time.perf_counter() if time.perf_counter() - begun > LEAD else None
                continue
            count += 1
            elapsed = time.perf_counter() - started
        print(count * BATCH / elapsed, flush=True)
        if cores:
            torch.set_num_threads(cores.most)


def start(setting: str, preset: str, size: int) -> subprocess.Popen[str]:
    """Starts a process that trains when it is asked to."""
    environment = environment_of(setting) | {"THREADS_PRESET": preset, "THREADS_IMAGE_SIZE": str(size)}
    if setting == "cunet":
        environment["THREADS_SHARE"] = "1"
    command = [sys.executable, __file__, "--train"]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True)


def ask(processes: list[subprocess.Popen[str]], seconds: float) -> list[float]:
    """Lets processes train at the same time; returns the images per second of each."""
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(f"{seconds}\n")
        process.stdin.flush()
    return [float(process.stdout.readline()) for process in processes if process.stdout is not None]


def measure(pair: list[subprocess.Popen[str]], situation: str, seconds: float) -> float:
    """Returns the images per second of a training in a situation; of two, the slower one counts."""
    if situation == "beside a busy process":
        busy = subprocess.Popen([sys.executable, "-c", BUSY.format(seconds + LEAD + 1)])
        try:
            return ask(pair[:1], seconds)[0]
        finally:
            busy.kill()
            busy.wait()
    return min(ask(pair if situation == "two at once" else pair[:1], seconds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", help="folder of the rows")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement")
    parser.add_argument("--settings", nargs="*", default=SETTINGS, help="of these, or spin counts")
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--image-size", type=int, default=16)
    parser.add_argument("--train", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train:
        train()
        return
    pairs = {s: [start(s, options.preset, options.image_size) for _ in range(2)] for s in options.settings}
    speeds: dict[tuple[str, str], list[float]] = {}
    try:
        ready = {s: [p.stdout.readline().split() for p in pair if p.stdout] for s, pair in pairs.items()}
        for number in range(options.rounds):
            for situation in SITUATIONS:
                # each setting is first and last as many times as the others
                order = [*pairs][number % len(pairs) :] + [*pairs][: number % len(pairs)]
                for setting in order:
                    found = measure(pairs[setting], situation, options.seconds)
                    speeds.setdefault((setting, situation), []).append(found)
                    print(number, setting, situation, round(found, 1), flush=True)
    finally:
        for pair in pairs.values():
            for process in pair:
                process.kill()
                process.wait()
    rows = []
    first = options.settings[0]
    for (setting, situation), found in speeds.items():
        # within each round, beside one alone with the first setting, and with the same one
        beside = [a / b for a, b in zip(found, speeds[first, "alone"], strict=True)]
        own = [a / b for a, b in zip(found, speeds[setting, "alone"], strict=True)]
        rows.append(
            {
                "setting": setting,
                "situation": situation,
                "images_per_second": round(statistics.median(found), 1),
                "least": round(min(found), 1),
                "most": round(max(found), 1),
                "to_torch_alone": round(statistics.median(beside), 3),
                "to_own_alone": round(statistics.median(own), 3),
                "rounds": options.rounds,
                "seconds": options.seconds,
                "preset": options.preset,
                "image_size": options.image_size,
                "threads": ready[setting][0][0],
                "cores": usable_cores(),
                "torch": ready[setting][0][1],
            }
        )
        print(rows[-1])
    write(options.output / "threads.csv", rows)


if __name__ == "__main__":
    main()
