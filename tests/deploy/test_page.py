"""The browser page makes the images that the NumPy module makes. Needs Chromium, node and, once, the npm registry."""

import dataclasses
import functools
import json
import os
import shutil
import subprocess
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from continuous_unet.cli.main import main
from continuous_unet.deploy.standalone import runtime
from tests.deploy.conftest import conditional
from tests.deploy.test_runtime import PERFECT, TABLES, network_of, slope

DRIVER = Path(__file__).parent / "browser.mjs"
PACKAGES = ["onnxruntime-web@1", "playwright-core@1"]


@pytest.fixture(scope="session")
def chromium():
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None or shutil.which("node") is None:
        pytest.skip("Chromium or node is not installed")
    return found


@pytest.fixture(scope="session")
def node_modules(request):
    """A folder with onnxruntime-web and playwright-core: CUNET_NODE_MODULES, or installed once into pytest's cache."""
    if "CUNET_NODE_MODULES" in os.environ:
        return Path(os.environ["CUNET_NODE_MODULES"])
    folder = request.config.cache.mkdir("cunet-npm")
    if not all((folder / "node_modules" / name.split("@")[0]).is_dir() for name in PACKAGES):
        command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(folder), *PACKAGES]
        try:
            installed = subprocess.run(command, capture_output=True, text=True, timeout=180)
        except (OSError, subprocess.TimeoutExpired) as error:
            pytest.skip(f"npm cannot be used: {error}")
        if installed.returncode:
            pytest.skip(f"the npm registry cannot be reached: {installed.stderr.strip().splitlines()[:1]}")
    return folder / "node_modules"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def look(chromium, node_modules):
    """Serve a folder, and give what the driver saw on its page."""

    def look(folder: Path) -> dict:
        server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            url = f"http://127.0.0.1:{server.server_port}/"
            command = ["node", str(DRIVER), str(node_modules), chromium, url, os.environ.get("CUNET_SCREENSHOT", "")]
            run = subprocess.run(command, capture_output=True, text=True, timeout=300)
        finally:
            server.shutdown()
        assert run.returncode == 0, run.stderr
        return json.loads(run.stdout)

    return look


@pytest.fixture
def page(tmp_path, node_modules):
    pytest.importorskip("onnxscript", reason="the export extra is not installed")
    conditional().save_pretrained(tmp_path / "model")
    options = [str(tmp_path / "model"), "--output", str(tmp_path / "page"), "--web", "--repeats", "0"]
    assert main(["export", *options]) == 0
    (tmp_path / "page" / "ort").symlink_to(node_modules / "onnxruntime-web" / "dist")
    return tmp_path / "page"


TEXTS = {"prompt": "A red circle, above!", "negative_prompt": "a blue square", "guidance_scale": 4.0}


def test_the_browser_makes_the_images_of_numpy(page, look):
    seen = look(page)
    assert seen["problems"] == []
    assert seen["error"] == ""
    assert "8 by 8 pixels, grey" in seen["about"]
    expected = runtime.generate(runtime.load(page), 3, steps=4, seed=4294967303, class_label="dog", **TEXTS)
    values = np.array(seen["values"], np.float32).reshape(expected.shape)
    assert np.abs(values - expected).max() < 1e-5
    assert expected.std() > 0.05
    pixels = np.array(seen["pixels"]).reshape(3, 8, 8, 4)
    assert np.abs(pixels[..., :3] - runtime.to_pixels(expected).astype(int)).max() <= 1
    assert (pixels[..., 3] == 255).all()
    assert seen["classes"] == ["cat", "dog", "any"]
    assert seen["fields"] == {"class": True, "guidance": True, "prompt": True, "negative": True}
    assert seen["guidance"] == "2.5"  # that of the model
    assert seen["progress"] == 1
    assert seen["overflow"] <= 0  # on a phone nothing sticks out
    assert seen["stopped"]


SCRIPT = """
import { readFileSync } from "node:fs";
import { Model } from "./diffusion.mjs";
const { info, steps, seed } = JSON.parse(readFileSync(0, "utf8"));
const slope = (data, time) => data.map((x) => Math.min(2, Math.max(-2, x)) * 0.3 + time / 4000);
const ort = { Tensor: class { constructor(type, data) { this.data = data; } } };
const run = async ({ sample, timestep }) => {
  return { prediction: { getData: async () => slope(sample.data, timestep.data[0]) } };
};
const model = new Model(ort, { run }, info);
console.log(JSON.stringify(Array.from(await model.generate({ count: 2, steps, seed }))));
"""
"""Samples with a network that is one formula, so that nothing but node is needed."""


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
@pytest.mark.parametrize("steps", [3, 4])
@pytest.mark.parametrize("name", TABLES)
def test_the_page_samples_as_numpy_does(name, steps, tmp_path):
    """With a table of three steps, new noise included, and otherwise with the first sampler of the process."""
    process, rows = TABLES[name]
    tables = [[dataclasses.asdict(row) for row in rows]]
    info = {**PERFECT, "image_shape": [1, 4, 4], "schedule": {**process.describe(), "tables": tables}}
    expected = runtime.generate(runtime.ExportedModel(network_of(slope), info), 2, steps=steps, seed=9)
    source = Path(runtime.__file__).parent / "web" / "diffusion.js"
    (tmp_path / "diffusion.mjs").write_bytes(source.read_bytes())
    (tmp_path / "script.mjs").write_text(SCRIPT)
    command = ["node", str(tmp_path / "script.mjs")]
    given = json.dumps({"info": info, "steps": steps, "seed": 9})
    run = subprocess.run(command, input=given, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    found = np.array(json.loads(run.stdout), np.float32).reshape(expected.shape)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-4 if name == "clipped" else 2e-5)


def test_the_page_says_what_is_wrong(page, look):
    (page / "network.onnx").unlink()
    seen = look(page)
    assert "network.onnx is missing (404)" in seen["error"]
    assert not any(seen["fields"].values())
    assert seen["problems"] == []
