"""The benchmark of a machine with a GPU, as a dry run on a CPU: every kind of piece, what is carried, and the pack."""

import csv
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).parents[1]
GPU = ROOT / "benchmarks" / "gpu"


def rows(path):
    return list(csv.DictReader(path.open(encoding="utf-8")))


def run(tmp_path, *options):
    command = [sys.executable, str(GPU), "--plan", str(GPU / "tiny.yaml"), "--data", "digits", "--device", "cpu"]
    command += ["--output", str(tmp_path / "out"), "--scratch", str(tmp_path / "scratch"), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_dry_run_leaves_all_rows(tmp_path):
    run(tmp_path)
    out = tmp_path / "out"
    assert not (out / "failures.csv").exists()
    assert all(row["finished"] == "True" for row in rows(out / "pieces.csv"))
    costs = rows(out / "costs" / "rows.csv")
    assert [(row["what"], row["mode"]) for row in costs] == [("training", "eager"), ("inference", "eager")]
    assert all(float(row["images_per_second"]) > 0 and not row.get("failed") for row in costs)
    assert len(rows(out / "modes" / "rows.csv")) == 4
    assert len(rows(out / "profile" / "rows.csv")) == 3
    (losses,) = rows(out / "generate" / "losses.csv")
    assert {"validation_loss", "band_1", "images_seen"} <= losses.keys()
    (fid,) = rows(out / "generate" / "fid.csv")
    assert (fid["sampling_steps"], fid["num_images"]) == ("2", "100")
    assert float(rows(out / "denoise" / "rows.csv")[-1]["validation_psnr"]) > 0
    for name in ("generate/weights.safetensors", "generate/samples-02-4.jpg", "denoise/restored.jpg"):
        assert (out / name).stat().st_size > 0
    assert not (out / "generate" / "carried").exists()


@pytest.fixture
def modules(monkeypatch):
    """Imports the modules of the benchmark, which lie beside each other."""
    monkeypatch.syspath_prepend(str(GPU))
    import carried
    import pack

    yield carried, pack
    for name in ("carried", "pack"):
        sys.modules.pop(name, None)


def test_a_training_goes_on_from_what_is_carried(tmp_path, modules):
    from continuous_unet.training import TrainConfig, train
    from continuous_unet.training.checkpoints import latest_valid, load_checkpoint

    carried, _ = modules
    options = {"preset": "tiny", "model_options": {"block_out_channels": [8], "norm_num_groups": 4}, "image_size": 8}
    config = TrainConfig.from_dict(
        {**options, "data": "digits", "steps": 3, "batch_size": 4, "output": str(tmp_path / "run"), "device": "cpu"}
    )
    train(config)
    assert carried.carry(tmp_path / "run", tmp_path / "carried")
    bytes_carried = sum(path.stat().st_size for path in (tmp_path / "carried").glob("*.safetensors"))
    tensors, state = load_checkpoint(latest_valid(tmp_path / "run" / "checkpoints"))
    parameters = sum(tensor.numel() for tensor in tensors["model"].values())
    headers = 6 * len(tensors["optimizer"]) * 120
    assert bytes_carried < 7 * parameters + headers
    carried.unpack(tmp_path / "carried", tmp_path / "other")
    found, again = load_checkpoint(latest_valid(tmp_path / "other" / "checkpoints"))
    assert again == state
    for file, relative in (("model", 1e-3), ("ema", 1e-3), ("optimizer", 0.3)):
        assert found[file].keys() == tensors[file].keys()
        for name, tensor in tensors[file].items():
            torch.testing.assert_close(found[file][name], tensor, rtol=relative, atol=1e-4)
    result = train(config.replaced(steps=5, output=str(tmp_path / "other")), resume=True)
    assert result.images_seen == 20


def test_the_pack_has_what_a_machine_without_a_network_needs(tmp_path, modules, monkeypatch):
    _, pack = modules
    for k in range(3):
        pixels = np.random.default_rng(k).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        (tmp_path / "images" / f"class{k}").mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / "images" / f"class{k}" / f"{k}.png")
    monkeypatch.setattr(pack, "PACKAGES", ("zipp",))
    size = pack.pack(tmp_path / "images", tmp_path / "pack.zip", side=16, most_bytes=10**7)
    assert size == (tmp_path / "pack.zip").stat().st_size
    with zipfile.ZipFile(tmp_path / "pack.zip") as archive:
        names = set(archive.namelist())
        assert {"run.sh", "lib/zipp/__init__.py", "benchmarks/gpu/plan.yaml"} <= names
        assert "src/continuous_unet/training/trainer.py" in names
        with zipfile.ZipFile(archive.open("images.zip")) as images:
            assert sorted(images.namelist()) == [f"class{k}/{k}.webp" for k in range(3)]
            with Image.open(images.open("class0/0.webp")) as image:
                assert image.size == (24, 16)
    with pytest.raises(SystemExit, match="do not fit"):
        pack.pack(tmp_path / "images", tmp_path / "pack.zip", most_bytes=10**5)
