"""Every snippet of the README and the docs runs: Python blocks in order in one process, `cunet` commands as typed.

Only numbers that decide how long something takes are reduced (`SHORTEN`); nothing else is changed. Blocks of other
languages (text, yaml, console output) are not run. Nor are the make targets, because CI runs them itself.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "CONTRIBUTING.md"])
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHORTEN = [
    (r"--steps \d+", "--steps 3"),
    (r"--num \d+", "--num 2"),
    (r"--batch-size \d+", "--batch-size 4"),
    (r"--checkpoint-every \d+", "--checkpoint-every 2"),
    # a comparison measures only the costs of two sides here; tests/comparison runs whole ones
    (r"^(cunet compare .*)$", r"\1 --costs-only --no-compiled --repeats 1 --sides ours control"),
    (r"^(cunet evaluate generate .*)$", r"\1 --extractor-steps 5"),
    (r"^(cunet inpaint .*)$", r"\1 --steps 6 --resamples 1"),
]
NOT_RUN = ("make ", "git clone", "pip install", "python -m pip", "cd ", "accelerate launch", "python benchmarks/")


def blocks(page: Path, language: str) -> list[str]:
    return [body for kind, body in BLOCK.findall(page.read_text(encoding="utf-8")) if kind == language]


def commands(page: Path) -> list[str]:
    lines = "\n".join(blocks(page, "bash")).replace("\\\n", " ").splitlines()
    return [line.split("  #")[0].strip() for line in lines if line.strip() and not line.startswith("#")]


@pytest.fixture
def workplace(tmp_path):
    """Makes what the snippets use: a folder of photographs, a mask of their size, and episodes of a robot."""
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for i in range(16):
        pixels = rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{i}.jpg")
    hole = np.zeros((40, 48), np.uint8)
    hole[10:20, 10:20] = 255
    Image.fromarray(hole).save(tmp_path / "mask.png")
    arrays = {"observations": rng.normal(size=(150, 6)), "actions": rng.normal(size=(150, 2))}
    np.savez(tmp_path / "trajectories.npz", **arrays, episode_ends=np.array([40, 100, 150]))
    np.savez(tmp_path / "observation.npz", observations=np.zeros((2, 6)))
    return tmp_path


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=lambda p: p.name)
def test_python_snippets(page, workplace):
    code = "\n".join(blocks(page, "python"))
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=workplace, capture_output=True, text=True)
    assert run.returncode == 0, f"{page.name}:\n{run.stderr[-3000:]}"


@pytest.mark.parametrize("page", [p for p in PAGES if commands(p)], ids=lambda p: p.name)
def test_shell_snippets(page, workplace):
    for command in commands(page):
        if command.startswith(NOT_RUN):
            continue
        assert command.startswith("cunet "), f"{page.name} has a command that no test runs: {command}"
        for pattern, replacement in SHORTEN:
            command = re.sub(pattern, replacement, command)
        arguments = [sys.executable, "-m", "continuous_unet", *shlex.split(command)[1:]]
        run = subprocess.run(arguments, cwd=workplace, capture_output=True, text=True)
        assert run.returncode == 0, f"{page.name}: {command}\n{run.stdout[-1000:]}\n{run.stderr[-3000:]}"


def test_the_pages_have_snippets():
    """A changed spelling of the code fences must not make the tests above vacuous."""
    readme = ROOT / "README.md"
    assert len(blocks(readme, "python")) >= 1
    assert len(blocks(ROOT / "docs" / "library.md", "python")) >= 4
    assert len([c for c in commands(readme) if c.startswith("cunet ")]) >= 3


def test_tables_are_made_from_the_rows():
    """Figures in the pages are written by benchmarks/tables.py from benchmarks/results, not by hand."""
    run = subprocess.run([sys.executable, ROOT / "benchmarks" / "tables.py", "--check"], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
