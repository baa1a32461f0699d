"""The commands in the first lines of an example accept it, and what it trains or compares can be built."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from continuous_unet.cli.main import main
from continuous_unet.comparison import CompareConfig, compare, load_sides
from continuous_unet.training.config import TrainConfig
from continuous_unet.training.distill import DistillOptions

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
KINDS = {"train": TrainConfig, "compare": CompareConfig, "distill": DistillOptions}


def commands(path):
    """Returns the words of the commands in the file's comment."""
    return [shlex.split(line) for line in re.findall(r"^#\s+(cunet .*)$", path.read_text("utf-8"), re.MULTILINE)]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_are_accepted_by_their_commands(path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert commands(path)
    for _, verb, *words in commands(path):
        assert words[:2] == ["--config", f"examples/{path.name}"]
        assert main([verb, *words, "--print-config"]) == 0
        printed = capsys.readouterr()
        assert not printed.err, "an example uses an old spelling"
        config = KINDS[verb].from_dict(yaml.safe_load(printed.out)).validate()
        if verb == "compare":
            size = "small" if config.side_size == "auto" else config.side_size
            for side in load_sides(config.sides, size):
                side.build(config.image_size, config.channels or 1)


def test_the_large_comparison_runs_at_a_tiny_size(tmp_path, monkeypatch):
    """All its kinds of sides, with narrow levels and few images."""
    monkeypatch.chdir(ROOT)
    config = CompareConfig.load(ROOT / "examples/compare-scenes-64.yaml")
    narrow = {"block_out_channels": [8, 8], "norm_num_groups": 4, "attention_head_dim": 4}
    paths = []
    for side in load_sides(config.sides, "base"):
        options = {k: v for k, v in side.model_options.items() if k != "block_out_channels"} | narrow
        if side.preset == "ddpm":
            continue  # its cuts are tested beside the sides
        content = {"label": side.label, "preset": side.preset, "model_options": options, "max_seeds": 1}
        paths.append(tmp_path / f"{side.name}.yaml")
        paths[-1].write_text(yaml.safe_dump(content), encoding="utf-8")
    tiny = {
        **{"data": "shapes", "output": str(tmp_path / "out"), "image_size": 16, "sides": [str(p) for p in paths]},
        **{"budget": "images=32", "batch_size": 16, "sweep_images": 16, "learning_rates": [1e-3], "fid_every": 16},
        **{"num_validation": 16, "num_samples": 100, "curve_samples": 100, "curve_steps": [1], "sampling_steps": 1},
        **{"compiled": False, "repeats": 1, "device": "cpu", "extractor": "small-classifier", "extractor_steps": 2},
    }
    result = compare(config.replaced(**tiny))
    assert [row.side for row in result.results] == [path.stem for path in paths]
    assert all(row.quality.recall is not None for row in result.results)
    assert (tmp_path / "out/plots/quality-and-cost.png").is_file()


@pytest.mark.parametrize("path", sorted((ROOT / "examples" / "sides").rglob("*.yaml")), ids=lambda path: path.name)
def test_sides_can_be_built(path):
    (side,) = load_sides([str(path)], "small")
    assert side.build(32, 3).num_parameters() > 0
