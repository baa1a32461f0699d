"""The commands in the first lines of an example accept it, and what it trains or compares can be built."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from continuous_unet.cli.main import main
from continuous_unet.comparison import CompareConfig, load_sides
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
            for side in load_sides(config.sides, "small"):
                side.build(config.image_size, 1)


@pytest.mark.parametrize("path", sorted((ROOT / "examples" / "sides").glob("*.yaml")), ids=lambda path: path.name)
def test_sides_can_be_built(path):
    (side,) = load_sides([str(path)], "small")
    assert side.build(32, 3).num_parameters() > 0
