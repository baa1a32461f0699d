"""Options classes: names, types, bounds, sections, variants, YAML."""

import subprocess
import sys
from dataclasses import dataclass
from typing import Any, Literal

import pytest
import yaml

from continuous_unet.base.errors import InputError
from continuous_unet.base.options import (
    Options,
    Word,
    build,
    flatten,
    leaves,
    option,
    read_layer,
    section,
    to_yaml,
    variants,
)


@dataclass
class Optimizer(Options):
    learning_rate: float = option(1e-3, "learning rate", above=0, at_most=1e6)
    batch_size: int = option(32, "images per step", at_least=1, may_change=True)


@dataclass
class Generate(Options):
    loss: Literal["squared"] = option("squared", "loss")


@dataclass
class Denoise(Options):
    sigma: str = option("0:55", "noise to remove")
    blind: bool = option(True, "whether the model is blind")
    loss: Literal["squared", "absolute"] = option("absolute", "loss")


@dataclass
class Upscale(Options):
    factor: Literal[2, 3, 4] = option(2, "upscaling factor")


TABLE = {"generate": Generate, "denoise": Denoise, "upscale": Upscale}


@dataclass
class Config(Options):
    output: str = option("", "folder of the run", required=True, metavar="FOLDER")
    source: str = option("model", "model to start from", positional=True, metavar="MODEL")
    steps: int = option(100, "training steps", at_least=1)
    share: float = option(0.5, "share of the images", between=(0, 1))
    decay: float = option(0.9, "decay", at_least=0, below=1)
    clip: float | None = option(None, "largest norm of the gradient", above=0)
    rates: list[float] = option([1e-3, 2e-3], "rates to try", above=0)
    names: list[str] = option([], "names")
    model_options: dict[str, Any] = option({}, "model options")
    scheduler: str = option("ddim", "sampling method", choices=lambda: ("ddim", "dpm++"), old=("--main-sampler",))
    task: Options = variants(lambda: TABLE, "generate", "task", old={"generation": "generate"})
    optimizer: Optimizer = section(Optimizer, "optimizer")

    def validate(self) -> "Config":
        super().validate()
        if self.steps == 13:
            raise InputError("--steps 13 brings bad luck")
        return self


def test_layers_in_order_and_dicts_merged():
    config = build(
        Config,
        {"steps": 3, "optimizer": {"batch_size": 2}, "model_options": {"a": 1}},
        {"steps": 4, "learning_rate": "1e-2", "model_options": {"b": 2}},
        given={"batch_size": Word("8"), "rates": [Word("1e-3"), Word("1")], "clip": Word("none")},
    )
    assert (config.steps, config.optimizer) == (4, Optimizer(0.01, 8))
    assert (config.model_options, config.rates, config.clip) == ({"a": 1, "b": 2}, [1e-3, 1.0], None)


WRONG_TYPES = [
    ({"steps": Word("many")}, "--steps 'many' must be an integer"),
    ({"steps": True}, "--steps True must be an integer"),
    ({"steps": 1.5}, "--steps 1.5 must be an integer"),
    ({"share": True}, "--share True must be a number"),
    ({"share": "half"}, "--share 'half' must be a number"),
    ({"clip": Word("x")}, "--clip 'x' must be a number or none"),
    ({"output": 3}, "--output 3 must be a text"),
    ({"source": 3}, "MODEL 3 must be a text"),
    ({"rates": [1, "x"]}, "--rates 1 x must be numbers"),
    ({"model_options": [1]}, "--model-option 1 must be a mapping"),
    ({"task": "denoize"}, "--task 'denoize' must be one of generate, denoise, upscale; did you mean denoise?"),
    ({"task": ["denoise"]}, "must be one of generate, denoise, upscale"),
    ({"task": "upscale", "factor": Word("5")}, "--factor '5' must be one of 2, 3, 4"),
    ({"task": "upscale", "factor": "2"}, "--factor '2' must be one of 2, 3, 4"),
    ({"optimizer": 3}, "optimizer must be a mapping"),
    ({"optimizer": {"bach_size": 3}}, "unknown option optimizer.bach_size; did you mean batch_size?"),
    ({"bach_size": 3}, "unknown option 'bach_size'; did you mean batch_size?"),
    ({"task": {"name": "denoise", "sigme": 3}}, "unknown option task.sigme; did you mean sigma?"),
]


@pytest.mark.parametrize(("values", "message"), WRONG_TYPES)
def test_wrong_values_are_named(values, message):
    with pytest.raises(InputError) as error:
        build(Config, values)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


OUT_OF_BOUNDS = [
    ({"steps": 0}, "--steps 0 must be at least 1"),
    ({"share": 1.5}, "--share 1.5 must be at least 0 and at most 1"),
    ({"decay": 1}, "--decay 1.0 must be at least 0 and below 1"),
    ({"clip": 0}, "--clip 0.0 must be above 0"),
    ({"share": float("nan")}, "--share nan must be finite"),
    ({"clip": float("inf")}, "--clip inf must be finite"),
    ({"rates": [1e-3, 0]}, "--rates 0.0 must be above 0"),
    ({"learning_rate": 1e7}, "--learning-rate 10000000.0 must be above 0 and at most 1e+06"),
    ({"output": ""}, "--output is missing: folder of the run"),
    ({"scheduler": "dpm"}, "--scheduler 'dpm' must be one of ddim, dpm++; did you mean dpm++?"),
    ({"steps": 13}, "bad luck"),
]


@pytest.mark.parametrize(("values", "message"), OUT_OF_BOUNDS)
def test_bounds_are_checked_by_validate(values, message):
    config = build(Config, {"output": "x", **values})
    with pytest.raises(InputError) as error:
        config.validate()
    assert message in str(error.value)
    assert build(Config, {"output": "x"}).validate().output == "x"


def test_values_from_python_are_checked_without_repair():
    for wrong in (Config(output="x", share="0.5"), Config(output="x", rates=["1e-3"]), Config(output="x", steps=True)):
        with pytest.raises(InputError, match="must be"):
            wrong.validate()
    with pytest.raises(InputError, match="task must be Generate or Denoise or Upscale"):
        Config(output="x", task=Optimizer()).validate()
    with pytest.raises(InputError, match="--batch-size 0"):
        Config(output="x", optimizer=Optimizer(batch_size=0)).validate()
    assert Config(output="x", share=1, task=Denoise("25")).validate().share == 1


def test_variants_are_chosen_by_name():
    assert build(Config).task == Generate()
    assert build(Config, given={"task": Word("denoise"), "sigma": Word("25")}).task == Denoise("25")
    assert build(Config, {"task": {"name": "denoise", "sigma": "5"}}, given={"loss": Word("squared")}).task == Denoise(
        "5", loss="squared"
    )
    notes: list[str] = []
    assert build(Config, {"task": "generation"}, notes=notes).task == Generate()
    assert notes == ["--task generation is now called generate"]


def test_an_option_of_another_variant_is_refused_by_name():
    for given in ({"sigma": Word("0:55")}, {"sigma": Word("9"), "task": Word("upscale")}, {"blind": True}):
        with pytest.raises(InputError, match=r"is for --task denoise, but this is --task (generate|upscale)"):
            build(Config, given=given)
    with pytest.raises(InputError, match="--loss is for --task generate and --task denoise, but this is"):
        build(Config, given={"loss": Word("squared"), "task": Word("upscale")})
    # flat files of version 0.1 list the options of every task
    assert build(Config, {"task": "generation", "sigma": "0:55", "factor": 2}).task == Generate()
    with pytest.raises(InputError, match="--sigma is for --task denoise"):
        build(Config, {"task": "generation", "sigma": "25"})


CONFIGS = [
    Config(),
    Config("x", task=Denoise("25", False), optimizer=Optimizer(1e-5, 3), rates=[1e-7], model_options={"a": [1, 2]}),
    Config("ünï\udcff: {", task=Upscale(4), clip=1.0, names=["none", "1"]),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_yaml_round_trip(config, tmp_path):
    config.save(tmp_path / "c.yaml")
    notes: list[str] = []
    assert Config.load(tmp_path / "c.yaml", notes) == config
    assert notes == []
    assert Config.from_dict(config.to_dict()) == config
    assert Config.from_dict(config.flat()) == config
    assert yaml.safe_load(to_yaml(config))["task"]["name"] == config.flat()["task"]


def test_flat_files_and_former_names_load_with_notes(tmp_path):
    (tmp_path / "c.yaml").write_text("main_sampler: dpm++\nbatch_size: 3\nlearning_rate: 1e-3\n")
    notes: list[str] = []
    config = Config.load(tmp_path / "c.yaml", notes)
    assert (config.scheduler, config.optimizer) == ("dpm++", Optimizer(1e-3, 3))
    assert "main_sampler is now called scheduler" in notes[0]
    assert "without their sections" in notes[1]


@pytest.mark.parametrize("text", ["a: [", "- 1", "steps: 2001-99-99", "\0", "3"])
def test_files_that_hold_no_options(text, tmp_path):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(InputError, match=r"c\.yaml"):
        read_layer(Config, tmp_path / "c.yaml")
    with pytest.raises(InputError, match="does not exist"):
        read_layer(Config, tmp_path / "nope.yaml")
    (tmp_path / "empty.yaml").write_text("")
    assert read_layer(Config, tmp_path / "empty.yaml") == {}


def test_leaves_tell_the_command_line_what_it_needs():
    known = leaves(Config)
    assert known["batch_size"].section == "optimizer"
    assert known["batch_size"].field.metadata["may_change"]
    assert known["sigma"].variants == ("denoise",)
    assert known["loss"].variants == ("generate", "denoise")
    assert [known[n].metavar for n in ("output", "steps", "share", "rates", "names", "factor", "model_options")] == [
        "FOLDER", "INT", "NUMBER", "NUMBER", "NAMES", "{2,3,4}", "KEY=VALUE",
    ]  # fmt: skip
    assert known["task"].choices == ("generate", "denoise", "upscale")
    assert known["task"].default == "generate"
    assert flatten(Config, {"task": {"name": "denoise"}}) == {"task": "denoise"}


def test_a_name_in_two_sections_is_a_mistake_of_ours():
    @dataclass
    class Twice(Options):
        batch_size: int = option(1, "x")
        optimizer: Optimizer = section(Optimizer)

    with pytest.raises(TypeError, match="two options of the name batch_size"):
        leaves(Twice)


def test_a_flat_name_may_differ_from_the_name_in_its_section():
    @dataclass
    class Data(Options):
        path: str = option("", "images", flat="data")

    @dataclass
    class Outer(Options):
        data: Data = section(Data)

    assert build(Outer, {"data": "digits"}) == build(Outer, {"data": {"path": "digits"}}) == Outer(Data("digits"))
    assert Outer(Data("x")).to_dict() == {"data": {"path": "x"}}
    assert Outer(Data("x")).replaced(data="y").flat() == {"data": "y"}


def test_needs_neither_torch_nor_numpy():
    code = "import sys, continuous_unet.base.options; sys.exit(bool({'torch', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
