"""The library call behind `cunet app`: opens the page, or writes it as static files."""

import shutil
import socket
import sys
import webbrowser
from dataclasses import dataclass
from pathlib import Path

from continuous_unet.app.models import AppModel, open_models
from continuous_unet.app.options import AppOptions
from continuous_unet.base.errors import InputError
from continuous_unet.base.files import check_output, replace_folder
from continuous_unet.base.packages import import_extra
from continuous_unet.base.results import CallResult
from continuous_unet.deploy.page import MODELS_FILE, write_page
from continuous_unet.deploy.standalone.runtime import INFO_FILE
from continuous_unet.deploy.web_runtime import find_runtime


@dataclass
class AppResult(CallResult):
    """The result of `open_app`."""

    models: list[str]
    output: str | None = None
    size_bytes: int = 0

    def to_text(self) -> str:
        if self.output is None:
            return ""
        return f"{self.output}: {', '.join(self.models)}, {self.size_bytes / 2**20:.1f} MiB"


def open_app(options: AppOptions) -> AppResult:
    """Opens the page with some models in a browser, and serves it until it is interrupted; or writes it to a folder.

    Raises:
        InputError: for models and options that cannot be used, and for a missing package.
    """
    options.validate()
    if options.output is not None:
        return write_site(options)
    for package in ("starlette", "uvicorn"):
        import_extra(package, f"cunet app needs {package}", "app")
    ort = None if options.compute == "server" else _runtime(options)
    with _bound(options) as listening:  # before the models, which may take a minute to export
        models = open_models(options.models)
        _serve(models, options, ort, listening)
    return AppResult([model.name for model in models])


def _runtime(options: AppOptions) -> Path | None:
    """Returns the folder of onnxruntime-web; None, with a note, if it is not there and the server can compute."""
    try:
        return find_runtime(options.ort_dir)
    except InputError as error:
        if options.compute == "browser" or options.ort_dir is not None:
            raise
        print(f"note: this machine's server computes, not the browser; {error}", file=sys.stderr)
        return None


def write_site(options: AppOptions) -> AppResult:
    """Writes the page with some models as static files.

    Raises:
        InputError: as `open_app`.
    """
    target = check_output(str(options.output), overwrite=options.overwrite, mark=MODELS_FILE, what="page")
    ort = find_runtime(options.ort_dir)
    models = open_models(options.models)

    def write(folder: Path) -> None:
        folder.mkdir()
        for model in models:
            place = folder / "models" / model.name
            place.mkdir(parents=True)
            for name in (INFO_FILE, *model.info["files"]):
                shutil.copyfile(model.folder / name, place / name)
        write_page(folder, [(model.name, f"models/{model.name}/") for model in models], ort)

    replace_folder(target, write)
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    return AppResult([model.name for model in models], str(target), size)


def _bound(options: AppOptions) -> socket.socket:
    """Returns a socket at the address of the page, which does not listen yet."""
    listening = socket.socket(socket.AF_INET6 if ":" in options.host else socket.AF_INET)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((options.host, options.port))
    except (OSError, UnicodeError) as error:
        listening.close()
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"cannot listen on {options.host}, port {options.port} ({reason}); choose another --port or --host"
        ) from error
    return listening


def _serve(models: list[AppModel], options: AppOptions, ort: Path | None, listening: socket.socket) -> None:
    import uvicorn

    from continuous_unet.app.server import choose_token, make_server

    token = choose_token(options)
    config = uvicorn.Config(make_server(models, options, ort, token), log_level="warning", timeout_keep_alive=30)
    host = f"[{options.host}]" if ":" in options.host else options.host
    address = f"http://{host}:{listening.getsockname()[1]}/" + ("" if token is None else f"?token={token}")
    print(f"{', '.join(model.name for model in models)}: {address} (Ctrl-C ends it)", file=sys.stderr, flush=True)
    if options.open:
        webbrowser.open(address)
    uvicorn.Server(config).run(sockets=[listening])
