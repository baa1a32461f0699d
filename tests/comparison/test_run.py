"""Whole comparisons of very small models: files, resumption after a kill, several processes, refusals."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from diffusers import DDPMScheduler
from PIL import Image

from continuous_unet import ContinuousUNet2DModel, DiffusionSamplingPipeline
from continuous_unet.base.errors import InputError
from continuous_unet.base.signals import Stopped, StopRequest
from continuous_unet.comparison import CompareConfig, compare
from continuous_unet.comparison.workers import run_in_processes
from continuous_unet.diffusion.process import process_of
from continuous_unet.models import presets
from continuous_unet.tasks.facts import Facts, SamplerFacts
from continuous_unet.tasks.loading import load_pipeline

SIDES = {
    "ours": {"label": "ours", "preset": "tiny", "model_options": {"block_out_channels": [8, 8], "norm_num_groups": 4}},
    "control": {
        "preset": "tiny",
        "model_options": {"block_out_channels": [8, 8], "norm_num_groups": 4, "block_type": "residual"},
    },
    "discrete": {
        "preset": "ddpm_small",
        "model_options": {"block_out_channels": [16, 24], "layers_per_block": 1, "add_attention": False},
    },
}
LOSS_COLUMNS = ("side", "parameters", "macs_per_forward", "learning_rate", "validation_loss", "fid", "kid")


@pytest.fixture
def sides(tmp_path):
    folder = tmp_path / "my-sides"
    folder.mkdir()
    for name, content in SIDES.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return [str(folder / f"{name}.yaml") for name in SIDES]


def config(output, sides, **changes):
    settings = {
        "data": "digits",
        "image_size": 8,
        "output": str(output),
        "sides": sides,
        "budget": "images=128",
        "batch_size": 16,
        "num_seeds": 2,
        "sweep_images": 32,
        "learning_rates": [1e-3, 4e-3],
        "num_validation": 32,
        "num_samples": 100,
        "curve_samples": 100,
        "curve_steps": [2],
        "scheduler": "dpm++",
        "sampling_steps": 2,
        "extractor_steps": 10,
        "compiled": False,
        "repeats": 2,
        "device": "cpu",
    }
    return CompareConfig(**{**settings, **changes})


def rows(folder):
    with (Path(folder) / "results.csv").open(encoding="utf-8", newline="") as file:
        return [{name: row[name] for name in LOSS_COLUMNS} for row in csv.DictReader(file)]


def table(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def stamps(folder):
    return {path: path.stat().st_mtime_ns for path in (Path(folder) / "pieces").rglob("*.json")}


def test_a_comparison_from_beginning_to_end_and_again(tmp_path, sides):
    folder = tmp_path / "out"
    result = compare(config(folder, sides, fid_every=48))
    there = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert there >= {
        "compare.yaml",
        "results.csv",
        "verdicts.csv",
        "curves.csv",
        "sampling.csv",
        "sweep.csv",
        "solver-steps.csv",
        "memory.csv",
        "report.md",
        "report.html",
        "sides/ours.yaml",
        "samples/discrete.png",
        "quality-and-cost.csv",
        "progress.csv",
        "plots/quality-and-cost.png",
        "plots/progress.png",
        "plots/convergence.png",
        "plots/sampling.png",
        "plots/solver-steps.png",
        "plots/memory.png",
        "extractor/classifier.safetensors",
    }
    assert [row.side for row in result.results] == list(SIDES)
    claims = {v.claim for v in result.verdicts}
    assert {"MACs per forward pass", "validation loss, equal images", "validation loss, equal wall-clock"} <= claims

    # the rate that is used is the best of the sweep
    with (folder / "sweep.csv").open(encoding="utf-8", newline="") as file:
        sweep = [row for row in csv.DictReader(file) if row["side"] == "ours"]
    best = min(sweep, key=lambda row: float(row["validation_loss"]))
    assert float(rows(folder)[0]["learning_rate"]) == float(best["learning_rate"])
    curves = json.loads((folder / "pieces/runs/ours/seed-1.json").read_text(encoding="utf-8"))["curve"]
    assert [point["images_seen"] for point in curves] == [16 * n for n in range(1, 9)]

    # the FID during the training is that of the models of then, and the training is the same with and without them
    progress = [row for row in table(folder / "progress.csv") if row["side"] == "ours"]
    assert [int(row["images_seen"]) for row in progress] == [48, 96]
    assert len({row["fid"] for row in progress}) == 2
    assert all(0 <= float(row["recall"]) <= 1 for row in progress)
    plain = compare(config(tmp_path / "plain", sides[:1], num_seeds=1, costs_only=False))
    assert plain.results[0].quality.validation_loss.seeds[0] == result.results[0].quality.validation_loss.seeds[0]

    # every way to make an image is a point of quality and cost
    points = [row for row in table(folder / "quality-and-cost.csv") if row["side"] == "ours"]
    assert [(row["scheduler"], row["sampling_steps"]) for row in points] == [
        ("dpm++", "2"),
        ("ddim", "2"),
        ("dpm++", "2"),
    ]
    assert int(points[0]["macs_per_image"]) == 2 * result.results[0].macs_per_forward
    floors = {row["num_samples"]: float(row["fid"]) - float(row["fid_above_floor"]) for row in points}
    assert floors["100"] > 0

    # every seed's model is sampled from, and the distances of all of them are in the row
    for row in result.results:
        fids = [
            json.loads((folder / "pieces/distance" / row.side / f"seed-{seed}.json").read_text())["fid"]
            for seed in (0, 1)
        ]
        assert fids[0] != fids[1]
        assert (row.quality.fid.low, row.quality.fid.high) == (min(fids), max(fids))
        assert row.quality.fid.mean == pytest.approx(sum(fids) / 2)
        assert row.quality.kid.mean != row.quality.kid.low

    # what FIDs stand between
    floor, noise = (json.loads((folder / f"pieces/{name}.json").read_text()) for name in ("floor", "noise"))
    assert floor["fid"] < noise["fid"]
    before, report = stamps(folder), (folder / "report.md").read_text(encoding="utf-8")
    for label, fid in (
        ("real images against other real images", floor["fid"]),
        ("noise against real images", noise["fid"]),
    ):
        assert re.search(rf"\| {label} \|.*\| {fid:.2f} \|", report)
    again = config(folder, sides, fid_every=48)
    compare(again)
    assert stamps(folder) == before
    assert (folder / "report.md").read_text(encoding="utf-8") == report

    # more seeds are added to what is there; other settings are refused
    compare(replace(again, num_seeds=3))
    assert {path for path in stamps(folder) if path not in before} == {
        folder / "pieces" / kind / name / "seed-2.json" for name in SIDES for kind in ("runs", "distance")
    }
    with pytest.raises(InputError, match=r"other settings .budget 'images=128' -> 'images=256'"):
        compare(replace(again, budget="images=256"))
    Path(sides[0]).write_text(yaml.safe_dump({"preset": "tiny"}), encoding="utf-8")
    with pytest.raises(InputError, match=r"the side ours of .* was another model"):
        compare(replace(again, num_seeds=3))


def test_saved_models_are_sides_and_distilled_ones_take_their_own_steps(tmp_path, sides):
    unet = ContinuousUNet2DModel(**presets.tiny(sample_size=8, block_out_channels=(8, 8), norm_num_groups=4))
    few = Facts(sampler=SamplerFacts(((999.0,), (999.0, 400.0, 100.0)), fresh_noise=True, distilled=True))
    DiffusionSamplingPipeline(unet, DDPMScheduler(prediction_type="v_prediction"), few).save_pretrained(
        tmp_path / "few"
    )
    mine = tmp_path / "teacher.yaml"
    DiffusionSamplingPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path / "plain")
    mine.write_text(yaml.safe_dump({"label": "my teacher", "saved": str(tmp_path / "plain")}), encoding="utf-8")
    names = [sides[0], f"saved:{tmp_path / 'few'}", str(mine)]
    settings = config(tmp_path / "out", names, num_seeds=1, budget="images=32", learning_rates=[1e-3])
    result = compare(settings)
    ours, distilled, teacher = result.results
    assert [ours.sampling_steps, distilled.sampling_steps, teacher.sampling_steps] == [2, 3, 2]
    assert distilled.macs_per_image == 3 * distilled.macs_per_forward
    assert ours.quality.validation_loss is not None
    assert distilled.quality.validation_loss is None  # it was not trained here
    assert distilled.quality.fid.mean > 0
    points = [(row["side"], row["scheduler"], row["steps"]) for row in table(tmp_path / "out/sampling.csv")]
    assert points[2:] == [
        ("few", "own", "1"),
        ("few", "own", "3"),
        ("teacher", "ddim", "2"),
        ("teacher", "dpm++", "2"),
    ]
    report = (tmp_path / "out/report.md").read_text(encoding="utf-8")
    assert "| few (saved) | its own sampler, 1 steps |" in report
    assert not (tmp_path / "out/runs/few").exists()
    with pytest.raises(InputError, match="works on 8 pixels"):
        compare(replace(settings, output=str(tmp_path / "other"), image_size=16))


def test_minutes_give_faster_sides_more_images(tmp_path, sides):
    """Equal time: images in proportion to the speed that was measured, in whole batches; by flow matching; classes."""
    folder = tmp_path / "out"
    flow = {"process": "flow", "scheduler": "euler", "class_conditional": True}
    compare(config(folder, sides[:1], budget="minutes=0.002", num_seeds=1, learning_rates=[1e-3], **flow))
    assert load_pipeline(folder / "runs/ours/seed-0").facts.conditions.classes == tuple("0123456789")
    as_trained = next(row for row in table(folder / "solver-steps.csv") if row["solver_steps"] == row["trained_with"])
    validated = table(folder / "results.csv")[0]["validation_loss"]  # with the same classes
    assert float(as_trained["validation_loss"]) == pytest.approx(float(validated), rel=1e-6)
    assert "told the class of each image" in (folder / "report.md").read_text(encoding="utf-8")
    assert {row["scheduler"] for row in table(folder / "sampling.csv")} == {"euler"}
    assert process_of(load_pipeline(folder / "runs/ours/seed-0").scheduler).name == "flow"
    speed = json.loads((folder / "pieces/training-speed.json").read_text(encoding="utf-8"))["ours"]
    run = json.loads((folder / "pieces/runs/ours/seed-0.json").read_text(encoding="utf-8"))
    expected = 0.12 / speed["seconds_per_image"]
    assert run["images_seen"] % 16 == 0
    assert abs(run["images_seen"] - expected) <= 16


COMMAND = [sys.executable, "-m", "continuous_unet", "compare"]


def start(settings, folder):
    path = folder / "settings.yaml"
    path.write_text(yaml.safe_dump(settings.to_dict()), encoding="utf-8")
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*COMMAND, "--config", str(path)], env=env, stderr=subprocess.PIPE, stdout=subprocess.PIPE)


def wait_for(path, process):
    deadline = time.monotonic() + 300
    while not path.exists():
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(("how", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143)], ids=["killed", "terminated"])
def test_a_comparison_that_was_stopped_goes_on_and_comes_to_the_same(how, code, tmp_path, sides):
    """In two processes at that: the whole one runs in this one, one training at a time, on one thread as they do
    (sums over two threads differ in their last digits).
    """
    settings = {"num_seeds": 1, "learning_rates": [4e-3]}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        compare(config(tmp_path / "whole", sides, **settings))
    finally:
        torch.set_num_threads(threads)
    stopped = config(tmp_path / "stopped", sides, jobs=2 if how == signal.SIGTERM else 1, **settings)
    process = start(stopped, tmp_path)
    wait_for(tmp_path / "stopped/pieces/runs/control/sweep-0.004.json", process)
    process.send_signal(how)
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == code, stderr.decode()
    assert b"Traceback" not in stderr
    assert not (tmp_path / "stopped/report.html").exists()
    # workers that were told to stop begin nothing new
    begun = {
        p.parent.relative_to(tmp_path / "stopped/runs") for p in (tmp_path / "stopped/runs").glob("*/*/config.yaml")
    }
    finished = {
        p.relative_to(tmp_path / "stopped/pieces/runs").with_suffix("")
        for p in (tmp_path / "stopped/pieces/runs").glob("*/*.json")
    }
    assert len({str(p) for p in begun} - {str(p) for p in finished}) <= stopped.jobs
    again = start(stopped, tmp_path)
    assert again.wait(timeout=300) == 0, again.stderr.read().decode()
    assert rows(tmp_path / "stopped") == rows(tmp_path / "whole")


def test_a_signal_while_something_is_measured_leaves_at_once(tmp_path, sides, monkeypatch):
    """What is measured already stays, and the comparison goes on."""
    from continuous_unet.comparison import measure

    def compiling_for_minutes(*args, **options):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    settings = config(tmp_path / "out", sides[:1], costs_only=True)
    began = time.monotonic()
    with monkeypatch.context() as patch:
        patch.setattr(measure, "measure_latencies", compiling_for_minutes)
        assert compare(settings).stopped_by == signal.SIGTERM
    assert time.monotonic() - began < 55
    before = stamps(tmp_path / "out")
    assert {path.stem for path in before} == {"costs", "memory", "training-speed"}
    assert compare(settings).stopped_by is None
    assert before.items() <= stamps(tmp_path / "out").items()


def test_a_signal_ends_the_training_of_the_classifier(tmp_path, sides):
    settings = config(
        tmp_path / "out",
        sides[:1],
        budget="images=16",
        sweep_images=16,
        num_seeds=1,
        learning_rates=[1e-3],
        extractor_steps=10**6,
    )
    process = start(settings, tmp_path)
    assert any(line.startswith(b"extractor") for line in process.stderr), "it never came to the classifier"
    time.sleep(2)
    told = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 143, stderr.decode()
    assert time.monotonic() - told < 30
    assert f"stopped; the same command continues {tmp_path / 'out'}" in stderr.decode()
    assert b"Traceback" not in stderr
    assert (tmp_path / "out/pieces/runs/ours/seed-0.json").exists()
    assert not (tmp_path / "out/pieces/extractor.json").exists()


def test_all_sides_take_the_schedule_and_the_precision_of_the_comparison(tmp_path):
    settings = config(tmp_path / "out", ["ours"], lr_schedule="cosine", mixed_precision="bf16").validate()
    side = SimpleNamespace(preset="tiny", model_options={})
    optimizer = settings.train_config("run", side, steps=40, learning_rate=1e-3, seed=0).optimizer
    assert (optimizer.lr_schedule, optimizer.mixed_precision) == ("cosine", "bf16")


def test_a_folder_of_something_else_is_left_alone(tmp_path, sides):
    (tmp_path / "diary.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match="not an empty folder"):
        compare(config(tmp_path, sides))
    assert {p.name for p in tmp_path.iterdir()} == {"diary.txt", "my-sides"}


def test_classes_that_the_data_does_not_have_are_refused_before_anything_is_written(tmp_path, sides):
    Image.new("L", (8, 8)).save(tmp_path / "grey.png")
    with pytest.raises(InputError, match=r"\(--class-conditional\) learns from images with classes, and .* has none"):
        compare(config(tmp_path / "out", sides, data=str(tmp_path), class_conditional=True))
    assert not (tmp_path / "out").exists()


def test_a_side_that_cannot_be_made_is_refused_before_anything_is_written(tmp_path, sides):
    Path(sides[0]).write_text(
        yaml.safe_dump({"preset": "tiny", "model_options": {"method": "magic"}}), encoding="utf-8"
    )
    with pytest.raises(InputError, match="the side ours cannot be made"):
        compare(config(tmp_path / "out", sides))
    assert not (tmp_path / "out").exists()


def test_a_rate_that_diverges_loses_the_sweep_and_stops_nothing(tmp_path, sides, monkeypatch):
    from continuous_unet.comparison import workers
    from continuous_unet.training.guards import TrainingDiverged

    real = workers.train

    def train(settings, resume=False):
        if settings.optimizer.learning_rate == 4e-3:
            raise TrainingDiverged("no finite gradient")
        return real(settings, resume)

    monkeypatch.setattr(workers, "train", train)
    result = compare(config(tmp_path / "out", sides[:1], num_seeds=1, budget="images=32"))
    assert result.results[0].quality.learning_rate == 1e-3
    assert "inf" in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    with pytest.raises(InputError, match="the side ours with seed 0 diverged"):
        compare(config(tmp_path / "again", sides[:1], num_seeds=1, learning_rates=[4e-3]))


def test_workers_that_are_still_starting_are_stopped_without_a_word(capfd):
    """They are new processes, which import torch for some seconds; the signal comes in the first second."""
    stop = StopRequest()
    stop.signal = signal.SIGTERM
    answers = []
    began = time.monotonic()
    with pytest.raises(Stopped):
        run_in_processes(
            {"a": (time.sleep, 200), "b": (time.sleep, 200)}, 2, stop, lambda *answer: answers.append(answer)
        )
    assert time.monotonic() - began < 150
    assert answers == []
    assert "Traceback" not in capfd.readouterr().err
