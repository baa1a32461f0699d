"""Whole images: FID by number of sampling steps, and images per second at equal FID."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from deployed.bench import EXPORTS, PRUNED, THREADS, Bench, fast_sampling, form_of, known_rows, timed
from deployed.judge import Judge

from continuous_unet.evaluation import measure_latency
from continuous_unet.tasks.generate.pipeline import generate

SAMPLING_STEPS = (2, 3, 4, 5, 6, 8, 10, 20)


def sampling(bench: Bench) -> Iterator[dict[str, Any]]:
    """Yields the FID by number of sampling steps, for each side in the forms that `candidates` names."""
    judge = Judge(bench)
    for side, variant in candidates(bench):
        pipeline = form_of(bench, side, variant)
        for steps in SAMPLING_STEPS:
            yield {"side": side, "variant": variant, "steps": steps, **judge.samples(pipeline, steps)}


def candidates(bench: Bench) -> list[tuple[str, str]]:
    """Returns each side's fastest form in floating point and in int8, of those that were timed with `THREADS` threads.

    The pruned models are not timed there, and take the forms of the model that they come from.
    """
    times: dict[tuple[str, bool], list[tuple[float, str]]] = {}
    forms = {"eager", *(f"{form} {precision}" for form, precision in EXPORTS if form != "executorch")}
    for row in known_rows(bench.arguments.output):
        if row["part"] == "latency" and row["threads"] == str(THREADS) and row["variant"] in forms:
            key = row["side"], row["variant"].endswith("int8")
            times.setdefault(key, []).append((float(row["ms"]), row["variant"]))
    if not times:
        raise SystemExit("run --only latency first: it finds out which forms are the fastest")
    fastest = [(side, min(found)[1]) for (side, _), found in sorted(times.items(), reverse=True)]
    return fastest + [(side, form) for side in PRUNED for whole, form in fastest if whole == "ours"]


def end_to_end(bench: Bench) -> Iterator[dict[str, Any]]:
    """Yields images per second on two cores at equal measured quality.

    The quality is the best FID of the discrete side in any of its forms, plus 5 %. Every form of both sides takes the
    fewest sampling steps that reach it; forms that never do are left out. Batches are timed in turns, relative to the
    discrete side's fastest form. Forms that plan for one image get one at a time.
    """
    batch = bench.arguments.batch_size
    torch.set_num_threads(THREADS)
    quality: dict[tuple[str, str], dict[int, float]] = {}
    for row in known_rows(bench.arguments.output):
        if row["part"] == "sampling":
            quality.setdefault((row["side"], row["variant"]), {})[int(row["steps"])] = float(row["fid"])
    if not quality:
        raise SystemExit("run --only sampling first: it finds out how many steps each form needs")
    level = 1.05 * min(min(fids.values()) for (side, _), fids in quality.items() if side == "discrete")
    fewest = {form: min((n for n, fid in fids.items() if fid <= level), default=None) for form, fids in quality.items()}
    functions = {form: sampler(bench, *form, steps, batch) for form, steps in fewest.items() if steps is not None}
    with torch.inference_mode():
        # the fastest form of the discrete side is the reference; one round finds it
        single = measure_latency(functions, repeats=1, warmup=1)
        order = sorted(functions, key=lambda form: (form[0] != "discrete", single[form].median_ms))
        times = measure_latency({form: functions[form] for form in order}, repeats=bench.arguments.rounds, warmup=1)
    for (side, variant), time in times.items():
        steps = fewest[side, variant]
        assert steps is not None
        yield {
            "side": side, "variant": variant, "threads": THREADS, "steps": steps, **timed(time),
            "fid": quality[side, variant][steps], "images_per_second": 1000 * batch / time.median_ms,
        }  # fmt: skip


def sampler(bench: Bench, side: str, variant: str, steps: int, batch: int) -> Callable[[], Any]:
    """Returns a call that makes `batch` images in `steps` sampling steps."""
    pipeline = fast_sampling(form_of(bench, side, variant, THREADS))
    return lambda: list(generate(pipeline, batch, num_inference_steps=steps, batch_size=batch))
