"""The options of `cunet app`. Imports neither torch nor NumPy: `cunet --help` reads it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from continuous_unet.base.errors import InputError
from continuous_unet.base.options import Options, option

if TYPE_CHECKING:
    from typing_extensions import Self

LOOPBACK = ("127.0.0.1", "localhost")
"""Hosts that only this machine reaches."""


@dataclass
class AppOptions(Options):
    """Options of `open_app`."""

    models: list[str] = option(
        [],
        "run folders, saved models or exports to put on the page (default: the models that come with the package)",
        positional=True,
        metavar="MODEL",
    )
    output: str | None = option(
        None, "new folder for the page as static files, which any web server serves; nothing is opened then"
    )
    compute: Literal["auto", "browser", "server"] = option(
        "auto",
        "where models run: in the browser, or on this machine's server; auto is the browser for exports of up to 200 "
        "MiB, if onnxruntime-web was fetched",
    )
    ort_dir: str | None = option(
        None, "folder of onnxruntime-web; that of `cunet app fetch` if left out", metavar="DIR"
    )
    host: str = option("127.0.0.1", "address to listen on; the default is reached from this machine alone")
    port: int = option(8765, "port to listen on; 0 is any free one", between=(0, 65535))
    token: str | None = option(
        None,
        "word that the address must have, as ?token=…; a random one if others can reach --host, none otherwise",
    )
    open: bool = option(True, "open the page in the browser of this machine")
    threads: int | None = option(
        None, "number of threads of an evaluation on the server; one for each core if left out", at_least=1
    )
    max_steps: int = option(200, "largest number of sampling steps that the server takes", between=(1, 1000))
    max_pixels: int = option(16_000_000, "largest picture that the server makes, in pixels", at_least=64)
    max_upload: int = option(16, "largest upload that the server reads, in MB", between=(1, 256))
    max_waiting: int = option(
        16, "number of requests that wait for the server; more are refused at once", between=(1, 256)
    )
    overwrite: bool = option(False, "replace an earlier page in --output")

    def validate(self) -> "Self":
        """Checks every option by itself, and which belong together."""
        super().validate()
        if self.output is not None and self.compute == "server":
            raise InputError(
                "--compute server needs this machine's server, and --output writes files without one; leave one out"
            )
        if self.token is not None and (not self.token or not self.token.isalnum()):
            raise InputError("--token must be of letters and digits")
        return self
