"""The skeleton of the verbs, by a verb that computes nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from continuous_unet.cli import main as main_module
from continuous_unet.cli.main import main
from tests.cli.a_verb import WORK, Denoise, Generate, Optimizer, WorkOptions


@pytest.fixture(autouse=True)
def _verb(monkeypatch):
    monkeypatch.setattr(main_module, "VERBS", {"work": "", "play piano": "", "play chess": ""})
    monkeypatch.setattr(main_module, "load_verb", lambda name: WORK)


def printed(capsys, *words):
    assert main(["work", *words, "--print-config"]) == 0
    return capsys.readouterr()


def options(capsys, *words):
    return WorkOptions.from_dict(yaml.safe_load(printed(capsys, *words).out))


GIVEN = [
    ((), WorkOptions()),
    (("run", "-o", "x"), WorkOptions("run", output="x")),
    (("--inputs", "a", "b", "--output=x"), WorkOptions(inputs=["a", "b"], output="x")),
    (("--batch_size", "8", "--learning-rate", "1e-5"), WorkOptions(optimizer=Optimizer(8, 1e-5))),
    (("--clip", "none", "--no-ema", "--sizes", "1", "2"), WorkOptions(clip=None, ema=False, sizes=[1, 2])),
    (("--task", "denoise", "--sigma", "-1"), WorkOptions(task=Denoise("-1"))),
    (("--task", "denoise", "--no-blind"), WorkOptions(task=Denoise(blind=False))),
    (("--loss", "squared"), WorkOptions(task=Generate())),
    (("--model-option", "a=[1, 2]", "--model-option", "b=x"), WorkOptions(model_options={"a": [1, 2], "b": "x"})),
]


@pytest.mark.parametrize(("words", "expected"), GIVEN, ids=str)
def test_words_become_options_and_printed_ones_can_be_read_again(words, expected, capsys, tmp_path):
    first = printed(capsys, *words)
    assert WorkOptions.from_dict(yaml.safe_load(first.out)) == expected
    assert first.err == ""
    (tmp_path / "c.yaml").write_text(first.out)
    assert printed(capsys, "--config", str(tmp_path / "c.yaml")) == first


FORMER = [
    (("--model", "run"), WorkOptions("run"), "--model is now called MODEL"),
    (("--sampler", "dpm++"), WorkOptions(scheduler="dpm++"), "--sampler is now called --scheduler"),
    (("--main_sampler=dpm++",), WorkOptions(scheduler="dpm++"), "--main-sampler is now called --scheduler"),
    (("--no-average",), WorkOptions(ema=False), "--no-average is now called --no-ema"),
]


@pytest.mark.parametrize(("words", "expected", "note"), FORMER)
def test_former_spellings_work_with_a_note(words, expected, note, capsys):
    output = printed(capsys, *words)
    assert WorkOptions.from_dict(yaml.safe_load(output.out)) == expected
    assert output.err == f"note: {note}\n"


WRONG = {
    "nothing": ([], "cunet: error: a verb is missing: one of work, play"),
    "unknown verb": (["wrok"], "did you mean work?"),
    "unknown verb of a group": (["play", "cheese"], "expected one of piano, chess; did you mean chess?"),
    "half a verb": (["play"], "a verb is missing: one of piano, chess (see `cunet play --help`)"),
    "unknown option": (["work", "--bach-size", "3"], "unknown argument --bach-size; did you mean --batch-size?"),
    "abbreviation": (["work", "--batch", "3"], "unknown argument --batch"),
    "too many": (["work", "a", "b"], "unknown argument b"),
    "no value": (["work", "--output"], "--output: expected one argument"),
    "two dashes": (["work", "--output=--"], "'--' is not a value"),
    "not a number": (["work", "m", "--batch-size", "many"], "--batch-size 'many' must be an integer"),
    "out of bounds": (["work", "m", "--batch-size", "0"], "--batch-size 0 must be at least 1"),
    "choice": (["work", "m", "--scheduler", "ddmi"], "must be one of ddim, dpm++; did you mean ddim?"),
    "missing": (["work"], "MODEL is missing: a run folder"),
    "another task": (["work", "m", "--sigma", "3"], "--sigma is for --task denoise, but this is --task generate"),
    "key": (["work", "--model-option", "a"], "'a' is not of the form KEY=VALUE"),
    "value": (["work", "--model-option", "a=["], "is not valid YAML"),
    "config missing": (["work", "--config", "nope.yaml"], "nope.yaml does not exist"),
    "resume nowhere": (["work", "--resume", "--output", ""], "--resume needs --output"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_bad_input_is_one_line_and_exit_code_2(kind, capsys):
    words, message = WRONG[kind]
    assert main(words) == 2
    output = capsys.readouterr()
    assert output.out == ""
    (line,) = output.err.splitlines()
    assert line.startswith("cunet work: error: " if words[:1] == ["work"] else "cunet")
    assert message in line


ENDS = {
    "": (0, "", "m done\n"),
    "input": (2, "cunet work: error: the file is damaged", ""),
    "run": (1, "cunet work: error: the loss is not finite", ""),
    "memory": (1, "cunet work: error: not enough memory", ""),
    "gpu memory": (1, "cunet work: error: not enough memory (CUDA)", ""),
    "package": (2, "pip install 'continuous-unet[train]'", ""),
    "bug": (1, "cunet work: internal error: ZeroDivisionError: division by zero (--debug", ""),
    "silent bug": (1, "cunet work: internal error: AssertionError", ""),
    "stop": (143, "cunet work: stopped", ""),
    "interrupt": (130, "cunet work: interrupted", ""),
    "stopped": (130, "stopped early", "m done\n"),
}


@pytest.mark.parametrize("how", ENDS)
def test_how_a_call_may_end(how, capsys):
    code, line, text = ENDS[how]
    assert main(["work", "m", "--fail", how]) == code
    output = capsys.readouterr()
    assert output.out == text
    assert line in output.err
    assert len(output.err.splitlines()) <= 1
    assert "Traceback" not in output.err


def test_debug_shows_the_traceback(capsys):
    assert main(["work", "m", "--fail", "input", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_json(capsys):
    assert main(["work", "m", "--json", "--fail", "stopped"]) == 130
    output = capsys.readouterr()
    assert json.loads(output.out)["options"]["model"] == "m"
    assert output.err == "stopped early\n"


def test_flags_take_precedence_over_the_file_and_the_file_over_what_was_begun(capsys, tmp_path):
    (tmp_path / "c.yaml").write_text("sizes: [2]\nmodel_options: {a: 1}\nbatch_size: 3\nlearning_rate: 1e-4\n")
    words = ["--config", str(tmp_path / "c.yaml"), "--batch-size", "4", "--model-option", "b=2"]
    words += ["--resume", "--output", "out"]
    optimizer, model_options = Optimizer(4, 1e-4), {"a": 1, "b": 2}
    expected = WorkOptions("out/model", sizes=[2], model_options=model_options, task=Denoise("7"), optimizer=optimizer)
    assert options(capsys, *words) == expected
    assert main(["work", *words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["resumed"]


def test_a_flat_file_gives_a_note(capsys, tmp_path):
    (tmp_path / "c.yaml").write_text("batch_size: 3\n")
    assert "without their sections" in printed(capsys, "--config", str(tmp_path / "c.yaml")).err


def test_help_says_what_each_option_is_for(capsys):
    assert main(["work", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for part in (
        "usage: cunet work MODEL [options]", "-o FOLDER, --output FOLDER", "--scheduler {ddim,dpm++}",
        "--sizes INT [INT ...]",        "(default: 8 16)", "what goes wrong: 100 % of it", "--clip NUMBER",
        "--model-option KEY=VALUE",
        "noise to remove, on the 0–255 scale (for --task denoise) (default: 0:55)", "--task {generate,denoise}",
        "optimizer: --batch-size INT", "--resume",
    ):  # fmt: skip
        assert part in text
    assert "--sampler" not in text


def test_the_verbs_are_listed(capsys):
    assert main(["--help"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("  ")] == [
        "work", "play", "play",
    ]  # fmt: skip
    assert main(["play", "--help"]) == 0
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines() if line.startswith("  ")] == [
        ["play", "piano"], ["play", "chess"],
    ]  # fmt: skip


def test_only_the_first_process_of_a_job_speaks(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert main(["work", "m", "--sampler", "ddim", "--fail", "stopped"]) == 130
    assert capsys.readouterr() == ("", "")


PROCESS = """
import sys
from continuous_unet.cli import main
from tests.cli.a_verb import WORK
main.VERBS, main.load_verb = {"work": ""}, lambda name: WORK
sys.exit(main.main(sys.argv[1:]))
"""
TERMINALS = [{"PYTHONIOENCODING": encoding} for encoding in ("ascii", "cp1252", "utf-8")] + [{"LC_ALL": "C"}]


@pytest.mark.parametrize("environment", TERMINALS, ids=lambda e: "=".join(*e.items()))
def test_names_that_the_terminal_cannot_show(environment):
    def work(*words):
        return subprocess.run(
            [sys.executable, "-c", PROCESS, "work", *words],
            cwd=Path(__file__).parents[2], capture_output=True, env={**os.environ, **environment},
        )  # fmt: skip

    name = b"\xff \xe2\x98\x83.png"  # a byte that is not UTF-8, and a snowman
    done = work(name)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(b".png done\n")
    as_json = work(name, "--json")
    assert os.fsencode(json.loads(as_json.stdout)["options"]["model"]) == name
    again = yaml.safe_load(work(name, "--print-config").stdout)
    assert os.fsencode(again["model"]) == name or environment != {"PYTHONIOENCODING": "utf-8"}
    refused = work(name, "--batch-size", "\u2603")
    assert refused.returncode == 2
    assert len(refused.stderr.splitlines()) == 1
    assert work("--help").returncode == 0
