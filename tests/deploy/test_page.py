"""The page makes the images that NumPy and PyTorch make. Needs Chromium, node and, once, the npm registry."""

import dataclasses
import functools
import json
import os
import re
import shutil
import subprocess
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from PIL import Image

from continuous_unet import DiffusionSamplingPipeline
from continuous_unet.app.inpainting import inpaint
from continuous_unet.app.models import AppModel
from continuous_unet.app.options import AppOptions
from continuous_unet.codecs.autoencoder import Autoencoder
from continuous_unet.codecs.base import Scale
from continuous_unet.deploy.export import export_model
from continuous_unet.deploy.network import on_arrays, prepare_network
from continuous_unet.deploy.options import ANY_STEPS, ExportOptions
from continuous_unet.deploy.page import PAGE, write_page
from continuous_unet.deploy.standalone import runtime
from continuous_unet.diffusion.process import process_of
from continuous_unet.diffusion.table import make_rows
from continuous_unet.images.resampling import enlarge, resize
from continuous_unet.images.tiling import Tiles, in_tiles, padded
from continuous_unet.tasks.denoise.pipeline import DenoisingPipeline
from continuous_unet.tasks.restoration import LUMA
from continuous_unet.tasks.upscale.pipeline import SuperResolutionPipeline
from tests.codecs.kinds import tiny
from tests.deploy.conftest import conditional, continuous
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


@pytest.fixture(scope="module")
def computing(pipelines, site, tmp_path_factory):
    """The address of the page where a server computes, with a token; empty if the app extra is not installed."""
    try:
        from continuous_unet.app.server import make_server
        from tests.app.test_server import Asking
    except (ImportError, pytest.skip.Exception):
        yield ""
        return
    models = []
    for name in ("conditional", "denoiser", "upscaler"):
        source = tmp_path_factory.mktemp("models") / name
        pipelines[name].save_pretrained(source)
        models.append(AppModel(name, str(source), site / name, runtime.read_info(site / name)))
    asking = Asking(make_server(models, AppOptions(compute="server", threads=1), None, "word"))
    yield f"http://127.0.0.1:{asking.port}/?token=word"
    asking.close()


@pytest.fixture(scope="module")
def seen(chromium, node_modules, site, photo, computing):
    """What the driver saw on the page, served with the headers for threads."""

    class Isolated(Quiet):
        def end_headers(self):
            self.send_header("Cross-Origin-Opener-Policy", "same-origin")
            self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
            super().end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Isolated, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/"
        pictures = os.environ.get("CUNET_SCREENSHOTS", "")
        command = ["node", str(DRIVER), str(node_modules), chromium, url, computing, str(photo), pictures]
        run = subprocess.run(command, capture_output=True, text=True, timeout=600)
    finally:
        server.shutdown()
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


SMALL = {"block_out_channels": (8,), "mid_block_type": None, "num_solver_steps": 1}


def latents():
    """A pipeline of latents that needs nothing but a size."""
    network = tiny()
    number = network.config.latent_channels
    unet = continuous(**{**SMALL, "sample_size": 4, "in_channels": number, "out_channels": number})
    options = {"prediction_type": "v_prediction", "beta_schedule": "squaredcos_cap_v2", "clip_sample": False}
    codec = Autoencoder(network, Scale((0.1,) * number, (0.7,) * number))
    return DiffusionSamplingPipeline(unet, DDPMScheduler(**options), codec=codec)


@pytest.fixture(scope="module")
def pipelines():
    larger = DDPMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True)
    return {
        "conditional": conditional(),
        "latents": latents(),
        "denoiser": DenoisingPipeline(continuous(**SMALL)),
        "upscaler": SuperResolutionPipeline(continuous(**SMALL, in_channels=2), larger, scale=2),
    }


@pytest.fixture(scope="module")
def site(pipelines, node_modules, tmp_path_factory):
    """The page with several models, and one of them again with a broken file."""
    pytest.importorskip("onnxscript", reason="the export extra is not installed")
    folder = tmp_path_factory.mktemp("page") / "site"
    ort = node_modules / "onnxruntime-web" / "dist"
    for name, pipeline in pipelines.items():
        page = {"web": True, "ort_dir": str(ort), "solver_steps": ANY_STEPS} if name == "latents" else {}
        export_model(pipeline, ExportOptions(output=str(folder / name), repeats=0, **page))
    assert (folder / "latents" / "ort" / "ort-wasm-simd-threaded.wasm").is_file()
    assert json.loads((folder / "latents" / "models.json").read_text())["models"][0]["folder"] == "./"
    shutil.copytree(folder / "conditional", folder / "broken")
    (folder / "broken" / "network.onnx").write_bytes(b"no network")
    few = json.loads((shutil.copytree(folder / "conditional", folder / "few") / "export.json").read_text())
    process = process_of(pipelines["conditional"].scheduler)
    tables = [make_rows(process, times, True) for times in ([999], [999, 512.5])]
    few["schedule"]["tables"] = [[dataclasses.asdict(row) for row in rows] for rows in tables]
    (folder / "few" / "export.json").write_text(json.dumps({**few, "only_tables": True}))
    write_page(folder, [(name, f"{name}/") for name in (*pipelines, "few", "broken")], ort)
    (folder / "empty").mkdir()
    write_page(folder / "empty", [("gone", "gone/")], ort)
    (folder / "outer").mkdir()
    frame = '<iframe src="../latents/#generate" allow="cross-origin-isolated"></iframe>'
    (folder / "outer" / "index.html").write_text(f"<body data-ready=true>{frame}</body>")
    return folder


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photos") / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 256, (21, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def image_of(values, channels, size=(8, 8)):
    """The pixels of a canvas as a model takes them, (1, C, H, W) in [0, 1]."""
    colours = np.array(values, np.float32).reshape(*size, 4)[..., :3].transpose(2, 0, 1)[None] / 255
    return (colours * np.array(LUMA, np.float32)[:, None, None]).sum(1, keepdims=True) if channels == 1 else colours


def assert_pictures(values, expected):
    """The pixels of canvases are those of images (B, C, H, W), but for rounding."""
    pixels = np.array(values).reshape(len(expected), *expected.shape[2:], 4)
    assert np.abs(pixels[..., :3] - runtime.to_pixels(expected).astype(int)).max() <= 1
    assert (pixels[..., 3] == 255).all()
    assert expected.std() > 0.02


TEXTS = {"prompt": "A red circle, above!", "negative_prompt": "a blue square", "guidance_scale": 4.0}


def test_strokes_become_the_picture_that_numpy_and_pytorch_make_of_them(site, seen, pipelines):
    request, model = seen["paint"]["request"], runtime.load(site / "conditional")
    assert request["steps"] == 4  # two evaluations at half the strength
    drawn = image_of(seen["paint"]["input"], 1)
    assert 0.05 < drawn.mean() < 0.6
    options = {"steps": 4, "seed": 4294967303, "class_label": "dog", **TEXTS}
    assert_pictures(seen["paint"]["pixels"], runtime.generate(model, 1, image=drawn, strength=0.5, **options))
    model.network = on_arrays(prepare_network(pipelines["conditional"].unet, ExportOptions(output="unused")).module)
    assert_pictures(seen["paint"]["pixels"], runtime.generate(model, 1, image=drawn, strength=0.5, **options))
    assert re.match(r"\d+(\.\d)? ms per picture, 4 evaluations. conditional: 0.0\d million parameters, ", seen["facts"])
    assert seen["classes"] == ["cat", "dog", "any"]


def test_a_distilled_model_takes_its_own_steps(site, seen):
    assert seen["steps"] == ["1", "2"]
    few, model = seen["few"], runtime.load(site / "few")
    assert (few["request"]["steps"], few["request"]["strength"]) == (2, 0.6)
    options = {"steps": 2, "strength": 0.6, "seed": 4294967303, "class_label": "dog", **TEXTS}
    assert_pictures(few["pixels"], runtime.generate(model, 1, image=image_of(few["input"], 1), **options))


def test_the_last_stroke_wins_and_what_is_outdated_is_dropped(site, seen):
    last = seen["last"]
    assert last["request"]["steps"] == 320
    options = {"steps": 320, "strength": 0.05, "seed": 4294967303, "class_label": "dog", **TEXTS}
    model = runtime.load(site / "conditional")
    assert_pictures(last["pixels"], runtime.generate(model, 1, image=image_of(last["input"], 1), **options))
    assert seen["number"] >= 1
    assert seen["dropped"] == [True, True, 4]
    before, undone = np.array(last["input"]), np.array(seen["undone"])
    assert (before != undone).any()
    assert (undone <= before).all()  # what the keyboard drew is gone


def test_seeds_become_tiles(site, seen, pipelines):
    model = runtime.load(site / "conditional")
    assert_pictures(seen["generate"], np.concatenate([runtime.generate(model, 1, steps=4, seed=k) for k in range(3)]))
    # of a model of latents, by PyTorch: network and decoder
    pipeline, info = pipelines["latents"], runtime.read_info(site / "latents")
    options = ExportOptions(output="unused", solver_steps=ANY_STEPS)
    model = runtime.ExportedModel(on_arrays(prepare_network(pipeline.unet, options).module), info)
    model.codec_decoder = on_arrays(pipeline.codec.decode)
    assert_pictures(seen["latents"], np.concatenate([runtime.generate(model, 1, steps=2, seed=k) for k in range(3)]))
    assert seen["asked"] == [
        "Model",
        "Sampling steps",
        "Solver steps",
        "Seed",
        "Pictures",
    ]  # no field for what it cannot be asked
    assert len(seen["compared"]) == 6
    assert re.fullmatch(r"1 step, [\d.]+ m?s, \d+\.\d %", seen["compared"][0])
    assert re.fullmatch(r"32 steps, [\d.]+ m?s", seen["compared"][5])
    words = [f"{n} solver step{'s'[: n > 1]}" for n in (1, 2, 4, 8)]
    assert [text.split(",")[0] for text in seen["deeper"]] == words
    assert re.fullmatch(r"Sampling steps: 2, about [\d.]+ m?s", seen["expected"])


def test_a_marked_part_is_made_anew(site, seen):
    found, model = seen["inpaint"], runtime.load(site / "conditional")
    hole, image = np.array(found["hole"], bool).reshape(8, 8), image_of(found["input"], 1)
    assert 0 < hole.sum() < 40
    expected = inpaint(model, image, hole, steps=3, repeats=2, class_label=0, guidance_scale=2.5)
    assert_pictures(found["pixels"], expected)
    assert np.abs(expected - image)[0, 0][hole].max() > 0.02
    assert (expected == image)[0, 0][~hole].all()


def test_photographs_are_restored_as_by_pytorch(seen, pipelines, photo):
    picture = Image.open(photo)
    for tab, name, scale in (("denoise", "denoiser", 1), ("upscale", "upscaler", 2)):
        expected = pipelines[name](picture, output_type="pt")[0]
        found = seen[tab]
        assert found["size"] == [21 * scale, 30 * scale]
        assert_pictures(found["pixels"], expected.reshape(1, *expected.shape[-3:]).numpy())
        assert seen[f"{tab} divided"] == ["20%", "75%"]
        assert seen[f"{tab} text"].startswith("text.png is no picture")
        assert seen[f"{tab} file"] == f"photo-{tab}d.png"


def test_the_page_is_for_everyone_and_stays_at_home(seen):
    assert seen["tabs"] == ["Paint", "Generate", "Fill in", "Denoise", "Upscale"]
    assert seen["problems"] == []
    assert seen["elsewhere"] == []
    assert seen["error"] == ""
    assert seen["unnamed"] == []  # a screen reader has a name for every field
    assert seen["overflow"] == [0] * 5
    assert max(map(int, re.findall(r"\d+", seen["dark"])[:3])) < 60
    isolated, backend = seen["threads"]
    assert isolated
    assert "thread" in backend


def test_a_server_makes_the_same_pictures_for_the_same_page(site, seen, pipelines, photo):
    found, model = seen.get("server"), runtime.load(site / "conditional")
    if found is None:
        pytest.skip("the app extra is not installed")
    assert found["place"] == "The server that this page came from computes the pictures."
    assert not found["compute"]  # no choice of what computes in the browser
    assert "token" not in found["address"]
    asked = {"class_label": None, "prompt": "a red circle", "guidance_scale": 2.5}
    drawn = image_of(found["paint"]["input"], 1)
    expected = runtime.generate(model, 1, image=drawn, strength=0.5, steps=4, **asked)
    assert_pictures(found["paint"]["pixels"], expected)
    assert re.match(r"[\d.]+ ms per picture, 4 evaluations. conditional: ", found["facts"])
    assert found["dropped"] == [True, True, 4]
    assert found["refused"] == "steps is 320; this server takes 1 to 200"
    options = {"class_label": 0, "guidance_scale": 2.5}
    expected = [runtime.generate(model, 1, steps=4, seed=k, **options) for k in range(3)]
    assert_pictures(found["generate"], np.concatenate(expected))
    hole = np.array(found["inpaint"]["hole"], bool).reshape(8, 8)
    image = image_of(found["inpaint"]["input"], 1)
    assert_pictures(found["inpaint"]["pixels"], inpaint(model, image, hole, steps=3, repeats=2, **options))
    for tab, name in (("denoise", "denoiser"), ("upscale", "upscaler")):
        expected = pipelines[name](Image.open(photo), output_type="pt")[0]
        assert_pictures(found[tab], expected.reshape(1, *expected.shape[-3:]).numpy())
    assert found["gone"] == "the server does not answer; is it still running?"


def test_a_graphics_card_makes_the_same_pictures(site, seen):
    if "graphics" not in seen:
        pytest.skip("this Chromium has no WebGPU")
    assert_pictures(seen["graphics"], runtime.generate(runtime.load(site / "latents"), 1, steps=1, seed=5))


def test_the_page_can_be_embedded(seen):
    assert seen["embedded"] == [True, "Generate"]


def test_the_page_says_what_is_wrong(seen):
    assert "network.onnx cannot be read; export the model again" in seen["broken"]
    assert seen["empty"] == "gone: export.json is missing (404): the export is incomplete"


SCRIPT = """
import { readFileSync } from "node:fs";
import { Model } from "./model.js";
const { info, steps, seed, image, hole, ...more } = JSON.parse(readFileSync(0, "utf8"));
const slope = (data, time) => data.map((x) => Math.min(2, Math.max(-2, x)) * 0.3 + time / 4000);
const ort = { Tensor: class { constructor(type, data) { this.data = data; } } };
const run = async ({ sample, timestep }) => {
  return { prediction: { getData: async () => slope(sample.data, timestep.data[0]) } };
};
const model = new Model(ort, { run }, info);
const given = { image: image && Float32Array.from(image), hole: hole && Uint8Array.from(hole), ...more };
console.log(JSON.stringify(Array.from(await model.generate({ count: 2, steps, seed, ...given }))));
"""
"""Samples with a network that is one formula, so that nothing but node is needed."""


def copy_scripts(folder, script):
    """Puts the scripts of the page into a folder where node takes them as modules, beside one that uses them."""
    for path in PAGE.glob("*.js"):
        shutil.copyfile(path, folder / path.name)
    (folder / "package.json").write_text('{"type": "module"}')
    (folder / "script.mjs").write_text(script)


def info_of(process, *tables):
    """Returns the description of an exported model with tables of its own."""
    tables = [[dataclasses.asdict(row) for row in rows] for rows in tables]
    return {**PERFECT, "image_shape": [1, 4, 4], "schedule": {**process.describe(), "tables": tables}}


def made_by_node(folder, **request):
    """Returns the images of the page's scripts, outside a browser."""
    copy_scripts(folder, SCRIPT)
    command = ["node", str(folder / "script.mjs")]
    run = subprocess.run(command, input=json.dumps(request), capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    return np.array(json.loads(run.stdout), np.float32)


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
@pytest.mark.parametrize("order", [1, 2])
def test_the_page_starts_from_pictures_and_fills_holes_as_numpy_does(order, tmp_path):
    """With second order, a start in the middle has no image before it, and a filling takes evenly spread times."""
    process = TABLES["flow"][0]
    info = info_of(process, make_rows(process, [900, 700, 400, 100], order=order))
    model = runtime.ExportedModel(network_of(slope), info)
    image = np.random.default_rng(0).random((1, 1, 4, 4), dtype=np.float32)
    started = runtime.generate(model, 2, steps=4, seed=9, image=image, strength=0.75)
    pixels = image.ravel().tolist()
    found = made_by_node(tmp_path, info=info, steps=4, seed=9, image=pixels, strength=0.75)
    np.testing.assert_allclose(found.reshape(started.shape), started, rtol=0, atol=2e-5)

    hole = np.arange(16).reshape(4, 4) % 3 == 0
    filled = inpaint(model, image, hole, steps=4, seed=9, repeats=2)
    marked = hole.ravel().astype(int).tolist()
    found = made_by_node(tmp_path, info=info, steps=4, seed=9, image=pixels, hole=marked, repeats=2, count=1)
    np.testing.assert_allclose(found.reshape(filled.shape), filled, rtol=0, atol=2e-5)
    plain = runtime.ExportedModel(network_of(slope), info_of(process))
    evenly_spread = inpaint(plain, image, hole, steps=4, seed=9, repeats=2)
    assert np.allclose(filled, evenly_spread) == (order == 2)


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
@pytest.mark.parametrize("steps", [3, 4])
@pytest.mark.parametrize("name", TABLES)
def test_the_page_samples_as_numpy_does(name, steps, tmp_path):
    """With a table of three steps, new noise included, and otherwise with the first sampler of the process."""
    process, rows = TABLES[name]
    info = info_of(process, rows)
    expected = runtime.generate(runtime.ExportedModel(network_of(slope), info), 2, steps=steps, seed=9)
    found = made_by_node(tmp_path, info=info, steps=steps, seed=9).reshape(expected.shape)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-4 if "clipped" in name else 2e-5)


PIXELS = """
import { readFileSync } from "node:fs";
import { cover, inTiles, padded, resize } from "./resampling.js";
const { values, height, width } = JSON.parse(readFileSync(0, "utf8"));
const picture = { planes: [Float32Array.from(values)], height, width };
const change = async (tile) => ({ ...resize(tile, tile.height * 2, tile.width * 2) });
const tiles = await inTiles(picture, { size: 16, overlap: 8, multiple: 4, scale: 2 }, change);
const made = {
  large: resize(picture, 47, 66),
  small: resize(picture, 9, 13),
  padded: padded(picture, 8),
  cover: cover(picture, 8, 8),
  tiles,
};
const shown = Object.entries(made).map(([name, { height, width, planes }]) => [name, [height, width, [...planes[0]]]]);
console.log(JSON.stringify(Object.fromEntries(shown)));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_the_page_resamples_and_tiles_as_pytorch_does(tmp_path):
    copy_scripts(tmp_path, PIXELS)
    image = torch.rand(1, 1, 23, 33, generator=torch.Generator().manual_seed(0))
    given = json.dumps({"values": image.flatten().tolist(), "height": 23, "width": 33})
    command = ["node", str(tmp_path / "script.mjs")]
    run = subprocess.run(command, input=given, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    bands = in_tiles(lambda x: enlarge(x, 2), image, multiple=4, scale=2, tiles=Tiles(16, 8), pad=False)
    expected = {
        "large": resize(image, 47, 66),
        "small": resize(image, 9, 13),
        "padded": padded(image, 8),
        "tiles": torch.cat(list(bands), dim=2),
        "cover": torch.tensor(runtime.fitted(image.numpy(), 8, 8)),
    }
    for name, (height, width, values) in json.loads(run.stdout).items():
        assert (height, width) == tuple(expected[name].shape[2:]), name
        found = np.array(values, np.float32).reshape(height, width)
        np.testing.assert_allclose(found, expected[name][0, 0].numpy(), rtol=0, atol=2e-5, err_msg=name)
