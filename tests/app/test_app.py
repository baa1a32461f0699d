"""`cunet app` as a call: the page as files, onnxruntime-web, and what is refused."""

import base64
import hashlib
import io
import json
import socket
import tarfile

import pytest

from continuous_unet.app.models import AppModel, open_models
from continuous_unet.app.options import AppOptions
from continuous_unet.app.run import open_app
from continuous_unet.base.errors import InputError
from continuous_unet.cli.main import main
from continuous_unet.deploy import web_runtime
from continuous_unet.deploy.page import PAGE_FILES
from continuous_unet.deploy.standalone.runtime import INFO_FILE
from continuous_unet.deploy.web_runtime import GRAPHICS, PROCESSOR, FetchOptions, fetch_runtime
from tests.deploy.test_runtime import PERFECT


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "continuous-unet"


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """An archive like that of npm, whose hash is expected."""
    path = tmp_path / "package.tgz"
    with tarfile.open(path, "w:gz") as file:
        for name in (*PROCESSOR, *GRAPHICS, "ort.all.js"):
            about = tarfile.TarInfo(f"package/dist/{name}")
            about.size = len(name)
            file.addfile(about, io.BytesIO(name.encode()))
    digest = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    monkeypatch.setattr(web_runtime, "INTEGRITY", f"sha512-{digest}")
    return path


@pytest.fixture
def exported(tmp_path):
    """A folder that looks like an export; its network is never opened."""
    folder = tmp_path / "my model"
    folder.mkdir()
    (folder / "network.onnx").write_bytes(b"network")
    files = {"network.onnx": {"sha256": hashlib.sha256(b"network").hexdigest()}}
    info = {**PERFECT, "network": "network.onnx", "files": files, "size_bytes": 7}
    (folder / INFO_FILE).write_text(json.dumps(info))
    return folder


def test_onnxruntime_web_is_fetched_once_and_checked(archive, cache, capsys):
    assert main(["app", "fetch", "--archive", str(archive)]) == 0
    found = cache / f"onnxruntime-web-{web_runtime.VERSION}"
    assert capsys.readouterr().out.endswith(f"{found}\n")
    assert sorted(path.name for path in found.iterdir()) == sorted((*PROCESSOR, *GRAPHICS))
    assert web_runtime.find_runtime(None) == found
    archive.write_bytes(archive.read_bytes() + b"more")
    with pytest.raises(InputError, match=r"is not onnxruntime-web .*: its hash is sha512-"):
        fetch_runtime(FetchOptions(archive=str(archive)))


def test_the_page_is_a_folder_that_any_server_serves(exported, archive, tmp_path):
    fetch_runtime(FetchOptions(archive=str(archive)))
    result = open_app(AppOptions(models=[str(exported), str(exported)], output=str(tmp_path / "site")))
    site = tmp_path / "site"
    assert result.models == ["my-model", "my-model-2"]
    assert result.size_bytes == sum(path.stat().st_size for path in site.rglob("*") if path.is_file())
    for model in json.loads((site / "models.json").read_text())["models"]:
        assert model["where"] == "browser"
        assert (site / model["folder"] / "network.onnx").is_file()
    assert {path.name for path in site.iterdir()} == {*PAGE_FILES, "models.json", "models", "ort"}
    assert (site / "ort" / PROCESSOR[0]).read_text() == PROCESSOR[0]


def test_who_computes(exported):
    (model,) = open_models([str(exported)])
    huge = AppModel("huge", "huge", exported, {**model.info, "size_bytes": 2**30})
    assert [model.computed_by("auto", there) for there in (True, False)] == ["browser", "server"]
    assert [huge.computed_by(compute, True) for compute in ("auto", "browser")] == ["server", "browser"]


def test_models_of_clips_and_plans_are_not_on_the_page(exported, tmp_path, capsys):
    info = json.loads((exported / INFO_FILE).read_text())
    (exported / INFO_FILE).write_text(json.dumps({**info, "image_shape": [1, 4, 8, 8]}))
    index = {"unet": ["continuous_unet", "ContinuousUNet2DModel"], "scheduler": ["diffusers", "DDPMScheduler"]}
    for folder, name in (("clips", "VideoPipeline"), ("plans", "PlanningPipeline")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "model_index.json").write_text(json.dumps({**index, "_class_name": name}))
    for source, what in ((exported, "clips"), (tmp_path / "clips", "clips"), (tmp_path / "plans", "plans")):
        assert main(["app", str(source), "--compute", "server", "--port", "0", "--no-open"]) == 2
        assert f"makes {what}, and the page is for images" in capsys.readouterr().err


def test_a_port_that_is_taken_is_refused_before_the_models_are_opened(capsys):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert main(["app", "nope", "--compute", "server", "--port", str(port), "--no-open"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"cannot listen on 127.0.0.1, port {port} (Address already in use)" in line


def test_bad_input_is_one_line(exported, tmp_path, capsys):
    (exported / "network.onnx").write_bytes(b"another")
    for words, message in (
        ([str(exported), "--compute", "server", "--output", "x"], "--compute server needs this machine's server"),
        (["--output", "x"], "fetch it once with `cunet app fetch`, or name its folder with --ort-dir"),
        (["--output", "x", "--ort-dir", str(tmp_path)], "ort.wasm.min.mjs is missing; name the folder `dist`"),
        ([str(exported), "--compute", "server", "--port", "0"], "its checksum differs"),
        (["nope", "--compute", "server", "--port", "0"], "nope does not exist"),
        (["--token", "a b"], "--token must be of letters and digits"),
        (["fetch", "--archive", "nope.tgz"], "--archive nope.tgz cannot be read (No such file or directory)"),
    ):
        assert main(["app", *words]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
