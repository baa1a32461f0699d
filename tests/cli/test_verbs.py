"""What holds for every verb; what each one does is tested beside its library call."""

import subprocess
import sys

import pytest
import yaml

from continuous_unet import __version__
from continuous_unet.base.options import leaves
from continuous_unet.cli.main import VERBS, load_verb, main

ASKING = [["--help"], ["--version"], ["evaluate", "--help"], *([*verb.split(), "--help"] for verb in VERBS)]


@pytest.mark.parametrize("words", ASKING, ids=" ".join)
def test_help_needs_no_torch(words):
    code = (
        "import sys; from continuous_unet.cli.main import main; code = main(sys.argv[1:]); "
        "heavy = {'torch', 'diffusers', 'numpy', 'PIL'} & set(sys.modules); "
        "sys.exit(code or (3 if heavy else 0))"
    )
    run = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert __version__ in run.stdout if "--version" in words else "usage: cunet" in run.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_explains_itself(verb, capsys):
    assert main([*verb.split(), "--help"]) == 0
    text = capsys.readouterr().out
    assert f"cunet {verb} " in text.split("options:")[0].split("\n", 1)[1]  # an example of how it is used
    for leaf in leaves(load_verb(verb).options).values():
        assert leaf.field.metadata.get("help"), leaf.name
        assert (leaf.metavar if leaf.field.metadata.get("positional") else leaf.flag) in text
    for meaningless in ("STR", "FLOAT", "None", "==SUPPRESS=="):
        assert meaningless not in text


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "models"])
def test_an_unknown_option_is_answered_with_the_nearest_one(verb, capsys):
    leaf = next(leaf for leaf in leaves(load_verb(verb).options).values() if not leaf.field.metadata.get("positional"))
    assert main([*verb.split(), f"{leaf.flag}z", "3"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"cunet {verb}: error: unknown argument {leaf.flag}z; did you mean --")


def words_for(leaf):
    """A value of an option that is not its default, as it is typed."""
    kinds = {getattr(kind, "__origin__", kind) for kind in leaf.kinds}
    if bool in kinds:
        return [f"--no-{leaf.flag[2:]}" if leaf.default else leaf.flag]
    values = [str(leaf.choices[-1])] if leaf.choices else ["a=[1, 2]"] if dict in kinds else ["3"]
    if list in kinds:
        values = values * 2
    return [*([] if leaf.field.metadata.get("positional") else [leaf.flag]), *values]


def options_of(verb):
    """Command lines that set every option of a verb: one for each variant."""
    known = list(leaves(load_verb(verb).options).values())
    choices = [leaf for leaf in known if "variants" in leaf.field.metadata]
    plain = [leaf for leaf in known if not leaf.variants and leaf not in choices]
    plain.sort(key=lambda leaf: not leaf.field.metadata.get("positional"))  # before a list could take their words
    yield [word for leaf in plain for word in words_for(leaf)]
    for choice in choices:
        for name in choice.choices:
            own = [leaf for leaf in known if name in leaf.variants and leaf.section == choice.field.name]
            yield [choice.flag, name, *(word for leaf in own for word in words_for(leaf))]


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_survives_being_printed_and_read_again(verb, capsys, tmp_path):
    for words in options_of(verb):
        assert main([*verb.split(), *words, "--print-config"]) == 0
        first = capsys.readouterr()
        assert first.err == ""
        assert main([*verb.split(), "--print-config"]) == 0
        assert capsys.readouterr().out != first.out
        (tmp_path / "c.yaml").write_text(first.out)
        assert main([*verb.split(), "--config", str(tmp_path / "c.yaml"), "--print-config"]) == 0
        assert capsys.readouterr() == first


@pytest.mark.parametrize("verb", VERBS)
def test_former_names_of_options_still_work(verb, capsys):
    for leaf in leaves(load_verb(verb).options).values():
        for old in leaf.field.metadata.get("old", ()):
            chosen = [f"--{leaf.section}", leaf.variants[0]] if leaf.variants else []
            new = words_for(leaf)
            values = new if leaf.field.metadata.get("positional") else new[1:]
            assert main([*verb.split(), *chosen, *new, "--print-config"]) == 0
            expected = capsys.readouterr().out
            assert main([*verb.split(), *chosen, old, *values, "--print-config"]) == 0
            output = capsys.readouterr()
            assert output.out == expected
            assert output.err == f"note: {old} is now called {leaf.label}\n"


FORMER = {
    "run": ["run", "--model", "exported", "--sampler", "dpm++"],
    "export": ["export", "--model", "runs/digits"],
    "prune": ["prune", "--model", "runs/digits"],
    "compare": ["compare", "--main-sampler", "ddim:5", "--scale", "small"],
    "train": ["train", "--task", "super-resolution", "--sample-steps", "5"],
    "generation": ["train", "--task", "generation"],
    "evaluate": ["evaluate", "denoise", "--steps", "5", "--sample-steps", "3"],
}
"""Spellings that the documentation of version 0.1 taught."""


@pytest.mark.parametrize("kind", FORMER)
def test_spellings_of_version_0_1(kind, capsys):
    assert main([*FORMER[kind], "--print-config"]) == 0
    output = capsys.readouterr()
    assert yaml.safe_load(output.out)
    notes = output.err.splitlines()
    assert notes
    assert all(note.startswith("note: ") and " is now called " in note for note in notes)


MISSING = {
    "sample": "RUN_OR_MODEL is missing",
    "denoise": "IN is missing",
    "upscale": "IN is missing",
    "inpaint": "IN is missing",
    "evaluate generate": "--data is missing",
    "evaluate denoise": "--data is missing",
    "evaluate upscale": "--data is missing",
    "train": "--output is missing",
    "distill": "MODEL is missing",
    "compare": "--data is missing",
    "data check": "DATA is missing",
    "profile": "MODEL is missing",
    "export": "RUN_OR_MODEL is missing",
    "prune": "RUN_OR_MODEL is missing",
    "depths": "RUN_OR_MODEL is missing",
    "schedule": "RUN_OR_MODEL is missing",
    "run": "is missing",
    "plan": "RUN is missing",
    "volume": "RUN is missing",
}


@pytest.mark.parametrize("verb", MISSING)
def test_what_is_missing_is_named_in_one_line(verb, capsys):
    assert main(verb.split()) == 2
    output = capsys.readouterr()
    assert output.out == ""
    (line,) = output.err.splitlines()
    assert line.startswith(f"cunet {verb}: error: ")
    assert MISSING[verb] in line
