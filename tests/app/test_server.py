"""The server of the page, asked by many at once, with uploads that are none, and with sizes beyond its models."""

import contextlib
import http.client
import io
import json
import socket
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

from continuous_unet.app import work
from continuous_unet.app.inpainting import inpaint
from continuous_unet.app.models import AppModel
from continuous_unet.app.options import AppOptions
from continuous_unet.deploy.standalone import runtime
from continuous_unet.deploy.standalone.runtime import ExportedModel
from continuous_unet.tasks.loading import load_restorer
from continuous_unet.tasks.packaged import find_model
from tests.deploy.test_runtime import PERFECT, network_of, slope

uvicorn = pytest.importorskip("uvicorn", reason="the app extra is not installed")
served = pytest.importorskip("continuous_unet.app.server", reason="the app extra is not installed")
INFO = {
    **PERFECT,
    "options": {},
    "size_bytes": 1000,
    "schedule": {**PERFECT["schedule"], "prediction_type": "v_prediction"},
}


class Asking:
    """A running server, and a way to ask it."""

    def __init__(self, app):
        self.listening = socket.socket()
        self.listening.bind(("127.0.0.1", 0))
        self.port = self.listening.getsockname()[1]
        self.server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.listening]}, daemon=True)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)

    def close(self):
        self.server.should_exit = True
        self.thread.join(20)
        self.listening.close()

    def __call__(self, path, body=None, method=None, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # a refusal comes before all was sent
            connection.request(method or ("GET" if body is None else "POST"), path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, content, dict(answer.getheaders())

    def run(self, body=b"", **asked):
        asked = {"model": "maker", "client": "one", **asked}
        return self(f"/api/run?request={quote(json.dumps(asked))}", body)


@pytest.fixture
def gate():
    """Lets the maker's evaluations through; a test may close it."""
    opened = threading.Event()
    opened.set()
    return opened


@pytest.fixture
def ask(gate, monkeypatch, tmp_path):
    """A server with a model that is one formula, and with the denoiser of the package."""

    def network(*inputs):
        gate.wait(20)
        return network_of(slope)(*inputs)

    monkeypatch.setattr(work.runtime, "load", lambda folder, threads: ExportedModel(network, INFO))
    (tmp_path / "export.json").write_text(json.dumps(INFO))
    blind = {**INFO, "task": "denoise", "options": {"sigma_conditioned": False}}
    models = [
        AppModel("maker", "maker", tmp_path, INFO),
        AppModel("denoise-grey", str(find_model("denoise-grey")), tmp_path, blind),
    ]
    options = AppOptions(compute="server", max_upload=1, max_waiting=4, max_pixels=4000)
    asking = Asking(served.make_server(models, options, None))
    yield asking
    gate.set()
    asking.close()


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def pixels(content):
    return np.asarray(Image.open(io.BytesIO(content)))


RNG = np.random.default_rng(0)
DRAWN = RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)


def test_pictures_are_those_of_the_browser(ask):
    model = ExportedModel(network_of(slope), INFO)
    status, content, headers = ask.run(steps=4, seed=5)
    assert (status, headers["content-type"], headers["x-evaluations"]) == (200, "image/png", "4")
    assert np.array_equal(pixels(content), runtime.to_pixels(runtime.generate(model, 1, steps=4, seed=5))[0, ..., 0])
    luma = (DRAWN / 255 @ [0.299, 0.587, 0.114])[None, None].astype(np.float32)
    status, content, headers = ask.run(png(DRAWN), steps=4, strength=0.5)
    expected = runtime.to_pixels(runtime.generate(model, 1, steps=4, image=luma, strength=0.5))
    assert np.abs(pixels(content) - expected[0, ..., 0].astype(int)).max() <= 1
    alpha = np.full((8, 8, 1), 255, np.uint8)
    alpha[2:5, 3:6] = 0
    status, content, headers = ask.run(png(np.concatenate([DRAWN, alpha], 2)), steps=3, repeats=2, fill=True)
    assert headers["x-evaluations"] == "6"
    expected = runtime.to_pixels(inpaint(model, luma, alpha[..., 0] == 0, steps=3, repeats=2))
    assert np.abs(pixels(content) - expected[0, ..., 0].astype(int)).max() <= 1
    noisy = RNG.integers(0, 256, (20, 24), dtype=np.uint8)
    status, content, headers = ask.run(png(noisy), model="denoise-grey")
    denoised = load_restorer("denoise-grey", "denoise")(Image.fromarray(noisy)).images[0]
    assert np.array_equal(pixels(content), np.asarray(denoised))


def test_a_hundred_requests_at_once_are_answered_or_refused(ask, gate):
    gate.clear()
    upload = png(DRAWN) + bytes(900_000)  # what follows the picture is ignored
    tracemalloc.start()
    with ThreadPoolExecutor(100) as pool:
        asked = [pool.submit(ask.run, upload, steps=1, strength=1.0, client=str(k)) for k in range(100)]
        while sum(future.done() for future in asked) < 95:  # all but one that is computed and four that wait
            time.sleep(0.01)
        gate.set()
        answers = [future.result() for future in asked]
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 40e6  # all of them have 90 MB
    assert sorted({status for status, _, _ in answers}) == [200, 503]
    assert sum(status == 200 for status, _, _ in answers) == 5
    (sentence,) = {content for status, content, _ in answers if status == 503}
    assert sentence == b"the server is busy: 4 requests are waiting; try again later"


def test_of_one_client_the_latest_request_counts(ask, gate):
    gate.clear()
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(ask.run, steps=50)
        time.sleep(0.3)
        second = pool.submit(ask.run, steps=50)
        time.sleep(0.3)
        third = pool.submit(ask.run, steps=1)
        time.sleep(0.3)
        gate.set()
        assert [future.result()[0] for future in (first, second, third)] == [409, 409, 200]


BAD = {
    "text": ({"body": b"no picture"}, 400, "the upload cannot be used as a picture: no image of a known format"),
    "large": ({"body": png(np.zeros((100, 41), np.uint8)), "model": "denoise-grey"}, 400, "41x100 pixels, more than"),
    "beyond": ({"body": png(np.zeros((40, 40), np.uint8))}, 400, "40x40 pixels, more than the limit of 1024"),
    "huge": ({"body": bytes(1_000_001)}, 413, "larger than 1 MB"),
    "cut off": ({"body": png(DRAWN)[:90]}, 400, "cannot be used as a picture"),
    "hole": ({"body": png(np.zeros((9, 9, 4), np.uint8)), "fill": True}, 400, "the hole (9, 9); this model fills"),
    "no hole": ({"fill": True}, 400, "there is no picture to fill in"),
    "nothing": ({"model": "denoise-grey"}, 400, "there is no picture to restore"),
    "fill": ({"model": "denoise-grey", "fill": True}, 400, "fills nothing in"),
    "steps": ({"steps": 201}, 400, "steps is 201; this server takes 1 to 200"),
    "rounds": ({"steps": 100, "repeats": 3}, 400, "steps is 300"),
    "seed": ({"seed": -1}, 400, "seed is -1"),
    "infinite": ({"scale": float("inf")}, 400, "scale is Infinity; expected a value of type float"),
    "kind": ({"steps": "many"}, 400, 'steps is "many"; expected a value of type int'),
    "guided": ({"scale": 3}, 400, "cannot be guided"),
    "depth": ({"solverSteps": 2}, 400, "the model maker has a fixed number of solver steps"),
    "deep": ({"solverSteps": 65}, 400, "solverSteps is 65; this server takes 1 to 64"),
    "class": ({"label": 3}, 400, "trained without classes"),
    "model": ({"model": "../maker"}, 404, "there is no model '../maker' here"),
    "field": ({"shell": "ls"}, 400, "must be an object of model, client, steps"),
    "long": ({"prompt": "a" * 1001}, 400, "prompt is"),
}


def test_bad_requests_get_one_sentence(ask):
    for name, (asked, expected, message) in BAD.items():
        status, content, _ = ask.run(**asked)
        assert (status, message in content.decode()) == (expected, True), (name, status, content)
        assert len(content.splitlines()) == 1
    assert ask("/api/run?request=[", b"")[0] == 400
    assert ask.run(steps=1)[0] == 200  # and goes on


def test_what_is_served_and_what_is_not(ask, tmp_path):
    status, _, headers = ask("/")
    assert status == 200
    assert headers["cross-origin-embedder-policy"] == "require-corp"  # for threads
    assert json.loads(ask("/models.json")[1])["models"][0] == {
        "name": "maker",
        "folder": "models/maker/",
        "where": "server",
    }
    assert ask("/app.js")[2]["content-type"].startswith("text/javascript")
    assert ask("/models/maker/export.json")[0] == 200
    (tmp_path / "secret").write_text("secret")
    for path in (
        "/models/maker/secret",
        "/models/maker/..%2fexport.json",
        "/../pyproject.toml",
        "/ort/ort.wasm.min.mjs",
    ):
        assert ask(path)[:2] == (404, b"there is nothing here"), path
    assert ask("/", Host="evil.example")[0] == 400  # a name that was made to point here
    assert ask("/api/run", b"", Origin="http://evil.example")[0] == 403


def test_others_need_a_token(tmp_path):
    options = AppOptions(host="0.0.0.0")
    token = served.choose_token(options)
    assert token != served.choose_token(options)
    assert served.choose_token(AppOptions()) is None
    ask = Asking(served.make_server([AppModel("maker", "maker", tmp_path, INFO)], options, None, token))
    try:
        for path in ("/", "/models.json", "/?token=wrong"):
            assert ask(path)[:2] == (403, b"this server needs a token: open the address that `cunet app` printed")
        status, _, headers = ask(f"/?token={token}")
        assert (status, headers["location"]) == (307, "/")
        assert ask("/models.json", Cookie=headers["set-cookie"].split(";")[0])[0] == 200
    finally:
        ask.close()
