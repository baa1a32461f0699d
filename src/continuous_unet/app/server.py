"""The server of the page: its files, the models for the browser, and the work of models that run here.

One request is computed at a time, in the order in which they came. Of each client, the latest request counts.
"""

import asyncio
import hmac
import secrets
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from continuous_unet.app.models import AppModel
from continuous_unet.app.options import LOOPBACK, AppOptions
from continuous_unet.app.work import Answer, Asked, Refused, Stopwatch, Workshop
from continuous_unet.deploy.page import MODELS_FILE, PAGE, PAGE_FILES, RUNTIME_FOLDER, list_models
from continuous_unet.deploy.standalone.runtime import INFO_FILE
from continuous_unet.deploy.web_runtime import GRAPHICS, PROCESSOR

TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".json": "application/json",
    ".mjs": "text/javascript",
    ".wasm": "application/wasm",
}
HEADERS = {
    "cross-origin-opener-policy": "same-origin",  # these two allow threads
    "cross-origin-embedder-policy": "require-corp",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}
SLOWEST_UPLOAD = 60.0
"""Seconds after which an upload that is still under way is refused."""
COOKIE = "cunet-token"


class Desk:
    """Takes requests: one is computed, a few wait, and more are refused.

    Args:
        workshop: what computes them.
        options: the bounds.
    """

    def __init__(self, workshop: Workshop, options: AppOptions) -> None:
        self.workshop = workshop
        self.options = options
        self.current: dict[str, Stopwatch] = {}
        self.admitted = 0
        self.turn = asyncio.Lock()

    async def __call__(self, request: Request) -> Response:
        """Answers a request of the page: with a PNG, or with one sentence."""
        try:
            answer = await self._answer(request)
        except Refused as refused:
            return PlainTextResponse(str(refused), refused.status)
        about = {"x-evaluations": str(answer.evaluations), "x-milliseconds": f"{answer.milliseconds:.2f}"}
        return Response(answer.png, media_type="image/png", headers=about)

    async def _answer(self, request: Request) -> Answer:
        asked = Asked.read(request.query_params.get("request", ""))
        self.workshop.check(asked)
        if self.admitted > self.options.max_waiting:  # before anything of it is read
            raise Refused(503, f"the server is busy: {self.options.max_waiting} requests are waiting; try again later")
        self.admitted += 1
        watch = Stopwatch()
        if asked.client in self.current:
            self.current[asked.client].stop.set()
        self.current[asked.client] = watch
        leaving: asyncio.Task[None] | None = None
        try:
            try:
                upload = await asyncio.wait_for(self._read(request), SLOWEST_UPLOAD)
            except asyncio.TimeoutError as error:
                raise Refused(408, f"the upload took longer than {SLOWEST_UPLOAD:.0f} seconds") from error
            leaving = asyncio.create_task(_stop_if_gone(request, watch))
            async with self.turn:
                return await run_in_threadpool(self.workshop, asked, upload, watch)
        finally:
            if leaving is not None:
                leaving.cancel()
            self.admitted -= 1
            if self.current.get(asked.client) is watch:
                del self.current[asked.client]

    async def _read(self, request: Request) -> bytes:
        """Reads an upload.

        Raises:
            Refused: as soon as it is too large.
        """
        most = self.options.max_upload * 10**6
        parts, size = [], 0
        too_large = Refused(413, f"the upload is larger than {self.options.max_upload} MB, the most that is read here")
        if int(request.headers.get("content-length") or 0) > most:
            raise too_large
        async for part in request.stream():
            size += len(part)
            if size > most:
                raise too_large
            parts.append(part)
        return b"".join(parts)


async def _stop_if_gone(request: Request, watch: Stopwatch) -> None:
    """Stops the work of a client that has left."""
    while not await request.is_disconnected():
        await asyncio.sleep(0.2)
    watch.stop.set()


class Guard:
    """Lets requests of this page through: those that have the token, from this origin. Adds the headers for threads."""

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self.app = app
        self.token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers, or hands the request on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *given]}
            await send(message)

        request = Request(scope)
        answer = self._refusal(request)
        await (self.app if answer is None else answer)(scope, receive, with_headers)

    def _refusal(self, request: Request) -> Response | None:
        origin = request.headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
            return PlainTextResponse("this server answers its own page alone", 403)
        if self.token is None:
            return None
        given = request.query_params.get("token")
        if given is not None and _same(given, self.token):
            answer = RedirectResponse(str(request.url.remove_query_params("token").path))
            answer.set_cookie(COOKIE, self.token, httponly=True, samesite="strict")
            return answer
        if _same(request.cookies.get(COOKIE, ""), self.token):
            return None
        return PlainTextResponse("this server needs a token: open the address that `cunet app` printed", 403)


def _same(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode(), token.encode())


def choose_token(options: AppOptions) -> str | None:
    """Returns the token that addresses must have; None if only this machine reaches the server and none was given."""
    return options.token or (None if options.host in LOOPBACK else secrets.token_hex(16))


def make_server(models: list[AppModel], options: AppOptions, ort: Path | None, token: str | None = None) -> Starlette:
    """Returns the server as an ASGI application.

    Args:
        models: those on the page.
        options: bounds, and who computes.
        ort: the folder of onnxruntime-web; None if no model runs in the browser.
        token: what requests must have, see `choose_token`.
    """
    where = {model.name: model.computed_by(options.compute, ort is not None) for model in models}
    by_name = {model.name: model for model in models}
    here = [model for model in models if where[model.name] == "server"]

    async def page(request: Request) -> Response:
        return _file(PAGE, request.path_params.get("name", "index.html"), PAGE_FILES)

    async def list_all(request: Request) -> Response:
        entries = [entry for m in models for entry in list_models([(m.name, f"models/{m.name}/")], where[m.name])]
        return JSONResponse({"models": entries})

    async def library(request: Request) -> Response:
        if ort is None:
            raise HTTPException(404)
        return _file(ort, request.path_params["name"], (*PROCESSOR, *GRAPHICS))

    async def part(request: Request) -> Response:
        model = by_name.get(request.path_params["model"])
        if model is None:
            raise HTTPException(404)
        files = () if where[model.name] == "server" else tuple(model.info["files"])
        return _file(model.folder, request.path_params["name"], (INFO_FILE, *files))

    async def failed(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        words = {404: "there is nothing here", 500: "the server failed; its terminal shows why"}
        return PlainTextResponse(words.get(status, "this cannot be done here"), status)

    middleware = [Middleware(Guard, token=token)]
    if options.host in LOOPBACK:  # so that no other name can be made to point here
        middleware.insert(0, Middleware(TrustedHostMiddleware, allowed_hosts=list(LOOPBACK)))
    routes = [
        Route("/", page),
        Route(f"/{MODELS_FILE}", list_all),
        Route(f"/{RUNTIME_FOLDER}/{{name}}", library),
        Route("/models/{model}/{name}", part),
        Route("/api/run", Desk(Workshop(here, options), options).__call__, methods=["POST"]),
        Route("/{name}", page),
    ]
    handlers: dict[Any, Any] = {HTTPException: failed, Exception: failed}
    return Starlette(routes=routes, middleware=middleware, exception_handlers=handlers)


def _file(folder: Path, name: str, allowed: tuple[str, ...]) -> Response:
    if name not in allowed or not (folder / name).is_file():
        raise HTTPException(404)
    return FileResponse(folder / name, media_type=TYPES.get(Path(name).suffix, "application/octet-stream"))
