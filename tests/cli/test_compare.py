"""`cunet compare` as it is typed; what it does is tested in tests/comparison."""

import json
import subprocess
import sys

import pytest
import yaml

from continuous_unet.cli.main import main

CUNET = [sys.executable, "-m", "continuous_unet", "compare"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "x"], "--data is missing"),
        (["--data", "digits"], "--output is missing"),
        (["--data", "digits", "--output", "x", "--budget", "lots"], "must be images=N or minutes=M"),
        (["--data", "digits", "--output", "x", "--sides", "nobody"], "'nobody' is neither built in"),
        (["--data", "digits", "--output", "x", "--curve-steps", "ten"], "--curve-steps ten must be integers"),
        (["--data", "digits", "--output", "x", "--side", "ours"], "did you mean --sides?"),
        (["--data", "nowhere", "--output", "x"], "nowhere does not exist"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line_and_leaves_nothing(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["compare", *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert len([line for line in error.splitlines() if line.startswith("cunet compare: error")]) == 1
    assert list(tmp_path.iterdir()) == []


def test_lists_come_from_the_command_line_and_from_files(tmp_path, capsys):
    file = tmp_path / "c.yaml"
    file.write_text("curve_steps: [5, 10]\nlearning_rates: [1.0e-3]\n", encoding="utf-8")
    assert main(["compare", "--config", str(file), "--sides", "ours", "control", "--print-config"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["sides"] == ["ours", "control"]
    assert printed["curve_steps"] == [5, 10]
    assert printed["learning_rates"] == [1e-3]


def test_costs_alone_need_no_training(tmp_path):
    """The README's command for the costs, on smaller sides."""
    sides = {
        "ours": {"preset": "tiny", "model_options": {"block_out_channels": [8, 8], "norm_num_groups": 4}},
        "discrete": {"preset": "ddpm_small", "model_options": {"block_out_channels": [16], "layers_per_block": 1}},
    }
    for name, content in sides.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    command = [
        *CUNET, "--data", "shapes", "--image-size", "8", "--output", "out", "--costs-only", "--no-compiled",
        "--repeats", "2", "--device", "cpu", "--json", "--sides", "ours.yaml", "discrete.yaml",
    ]  # fmt: skip
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    by_name = {row["side"]: row for row in result["results"]}
    assert by_name["discrete"]["latency_eager_ratio"] == 1.0  # ratios are to the discrete side, wherever it is named
    assert "validation_loss" not in by_name["ours"]
    assert {v["claim"] for v in result["verdicts"]} >= {"MACs per forward pass", "latency per forward pass, eager"}
    assert not (tmp_path / "out" / "runs").exists()
    assert "nothing was trained" in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
