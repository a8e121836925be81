"""The routes of the server, and the pages among them."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException as AnyHTTPException

from segdistill.serving.limits import error_response
from segdistill.serving.pictures import Format
from segdistill.serving.schemas import (
    CLOSED,
    ERROR,
    ERRORS,
    EVERYWHERE,
    METRICS,
    MODEL,
    SEGMENT,
    SEGMENTED,
    STATE,
    answer,
)
from segdistill.version import __version__

if TYPE_CHECKING:
    from segdistill.serving.server import Service


PAGE = Path(__file__).with_name("page")

FILES = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/drawing.js": ("drawing.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
"""The page: path, file in `PAGE`, media type. Nothing else is ever read from disk for a client."""

OPEN_PATHS = frozenset(FILES) | {"/healthz", "/readyz"}
"""Need no token."""

SEGMENT_PATH = "/v1/segment"

PATHS = OPEN_PATHS | {SEGMENT_PATH, "/v1/model", "/metrics", "/docs", "/openapi.json"}

ACCEPTED: dict[str, Format] = {
    "application/json": "json", "image/png": "mask", "image/*": "mask", "*/*": "mask", "": "mask",
    "image/png;variant=mask": "mask", "image/png;variant=overlay": "overlay",
}  # fmt: skip
"""What an Accept header's media types stand for, with their parameter `variant` where they have one."""


def make_app(service: "Service") -> FastAPI:
    """The application."""
    app = FastAPI(
        title="segdistill",
        version=__version__,
        description="Segments pictures with one network.",
        docs_url=None,  # FastAPI's own loads scripts from a network of strangers
        redoc_url=None,
    )
    _add_api(app, service)
    _add_states(app, service)
    _add_pages(app)
    _add_errors(app)
    return app


def _add_api(app: FastAPI, service: "Service") -> None:
    @app.post(
        SEGMENT_PATH,
        summary="The mask of a picture",
        openapi_extra=SEGMENT,
        response_class=Response,
        responses={200: SEGMENTED, **ERRORS},
    )
    async def segment(request: Request, format: Format | None = None) -> Response:
        """Post an image as multipart/form-data, in the field `image`.

        `?format=mask`, `json` or `overlay` says what comes back. Without it the Accept header does:
        application/json for JSON, `image/png; variant=overlay` for the overlay, anything else with PNG for
        the mask.
        """
        return await service.answer(request, format or accepted(request.headers.get("accept", "")))

    @app.get(
        "/v1/model",
        summary="The model card",
        responses={200: answer("the card", "application/json", MODEL), **CLOSED},
    )
    async def model() -> dict[str, Any]:
        """Name, classes with their colours, input size, parameters, scores, and the server's limits."""
        return service.card


def accepted(header: str) -> Format:
    """What an Accept header asks for: of its media types that there are the first of the highest quality.

    Raises:
        HTTPException: 406, there is none of them.
    """
    found: Format | None = None
    best = 0.0
    for part in header.lower().split(","):
        kind, *fields = (field.strip() for field in part.split(";"))
        parameters = dict(field.split("=", 1) for field in fields if "=" in field)
        if "variant" in parameters:
            kind += ";variant=" + parameters["variant"].strip('"')
        form = ACCEPTED.get(kind)
        quality = _quality(parameters.get("q", "1"))
        if form is not None and quality > best:
            found, best = form, quality
    if found is None:
        raise HTTPException(406, "answers are image/png, image/png; variant=overlay or application/json")
    return found


def _quality(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def _add_states(app: FastAPI, service: "Service") -> None:
    @app.get(
        "/healthz",
        summary="Whether the server lives",
        responses={200: answer("it does", "application/json", STATE), **EVERYWHERE},
    )
    async def healthz() -> dict[str, str]:
        """Answers as long as the process works."""
        return {"status": "alive"}

    @app.get(
        "/readyz",
        summary="Whether it would take a request",
        responses={
            200: answer("it would", "application/json", STATE),
            **EVERYWHERE,
            503: answer("not now", "application/json", {"anyOf": [STATE, ERROR]}),
        },
    )
    async def readyz() -> JSONResponse:
        """503 while the queue is full or the network's thread has ended."""
        return JSONResponse({"status": "ready" if service.ready else "full"}, 200 if service.ready else 503)

    @app.get(
        "/metrics",
        summary="Counters for Prometheus",
        response_class=Response,
        responses={200: METRICS, **CLOSED},
    )
    async def metrics() -> Response:
        """Requests by status, seconds, queue length, batch sizes, the process's memory."""
        return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)


def _add_pages(app: FastAPI) -> None:
    def add(path: str, content: bytes, media_type: str) -> None:
        async def page() -> Response:
            return Response(content, media_type=media_type)

        app.add_api_route(path, page, include_in_schema=False)

    for path, (name, media_type) in FILES.items():
        add(path, (PAGE / name).read_bytes(), media_type)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        environment = Environment(
            loader=FileSystemLoader(PAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True
        )
        return HTMLResponse(environment.get_template("docs.html.j2").render(api=app.openapi()))


def _add_errors(app: FastAPI) -> None:
    """Every error leaves as one line of JSON."""

    @app.exception_handler(AnyHTTPException)
    async def refused(request: Request, error: AnyHTTPException) -> JSONResponse:
        return error_response(error.status_code, error.detail, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return error_response(422, f"{'.'.join(map(str, first['loc']))}: {first['msg']}")

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        return error_response(500, "internal error; the server's log says more")
