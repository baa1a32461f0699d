"""The commands in the first lines of every file in `examples/` accept it, and what it trains or compares can be built."""

import re
import shlex
from pathlib import Path

import pytest

from continuous_unet.cli.arguments import read_config
from continuous_unet.comparison import CompareConfig, load_sides
from continuous_unet.training.config import TrainConfig

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
KINDS = {"train": TrainConfig, "compare": CompareConfig}


def commands(path):
    """Returns the words of the commands in the file's comment."""
    return [shlex.split(line) for line in re.findall(r"^#\s+(cunet .*)$", path.read_text("utf-8"), re.MULTILINE)]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_are_taken_by_their_commands(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert commands(path)
    for _, verb, *options in commands(path):
        given = {name[2:].replace("-", "_"): value for name, value in zip(options[::2], options[1::2], strict=True)}
        assert given.pop("config") == f"examples/{path.name}"
        values = {**read_config(f"examples/{path.name}", KINDS[verb]), **given}
        if "jobs" in given:
            values["jobs"] = int(given["jobs"])
        config = KINDS[verb](**values)
        config.validate()
        if verb == "compare":
            for side in load_sides(config.sides, "small"):
                side.build(config.image_size, 1)


@pytest.mark.parametrize("path", sorted((ROOT / "examples" / "sides").glob("*.yaml")), ids=lambda path: path.name)
def test_sides_can_be_built(path):
    (side,) = load_sides([str(path)], "small")
    assert side.build(32, 3).num_parameters() > 0
