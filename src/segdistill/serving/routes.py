"""The routes of the server: the API, health, metrics and the page."""

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException as StarletteHTTPException

from segdistill.page.render import read_part, render_page
from segdistill.page.templates import open_template
from segdistill.serving.codec import ResponseFormat
from segdistill.serving.middleware import error_response, internal_error
from segdistill.serving.paths import (
    DOCS_PATH,
    HEALTH_PATH,
    METRICS_PATH,
    MODEL_PATH,
    OPENAPI_PATH,
    PAGE_FILES,
    PAGE_PATH,
    READY_PATH,
    SEGMENT_PATH,
)
from segdistill.serving.schemas import (
    METRICS_RESPONSE,
    OPEN_ERRORS,
    SEGMENT_ERRORS,
    SEGMENT_RESPONSE,
    TOKEN_ERRORS,
    UPLOAD,
    Error,
    Model,
    State,
)
from segdistill.serving.service import Service
from segdistill.version import __version__

ACCEPTED: dict[str, ResponseFormat] = {
    "application/json": "json", "image/png": "mask", "image/*": "mask", "*/*": "mask", "": "mask",
    "image/png;variant=mask": "mask", "image/png;variant=overlay": "overlay",
}  # fmt: skip
"""Media type of an Accept header, with its parameter `variant` where it has one -> response format."""


def make_app(service: Service) -> FastAPI:
    """The application."""
    app = FastAPI(
        title="segdistill",
        version=__version__,
        description="Segments images with one network.",
        openapi_url=OPENAPI_PATH,
        docs_url=None,  # FastAPI's own page loads scripts from other hosts
        redoc_url=None,
    )
    _add_api(app, service)
    _add_states(app, service)
    _add_pages(app)
    _add_error_handlers(app)
    return app


def _add_api(app: FastAPI, service: Service) -> None:
    @app.post(
        SEGMENT_PATH,
        summary="The mask of an image",
        openapi_extra=UPLOAD,
        response_class=Response,
        responses={200: SEGMENT_RESPONSE, **SEGMENT_ERRORS},
    )
    async def segment(request: Request, format: ResponseFormat | None = None) -> Response:
        """Post an image as multipart/form-data, in the field `image`.

        `?format=mask`, `json` or `overlay` chooses the response. Without it the Accept header does:
        application/json for JSON, `image/png; variant=overlay` for the overlay, anything else with PNG for
        the mask.
        """
        return await service.segment(request, format or negotiate(request.headers.get("accept", "")))

    @app.get(
        MODEL_PATH,
        summary="The model card",
        responses=TOKEN_ERRORS,
        response_description="the card",
    )
    async def model() -> Model:
        """Name, classes with their colours, input size, parameters, scores, and the server's limits."""
        return service.card


def negotiate(header: str) -> ResponseFormat:
    """The response format for an Accept header: of the known media types the first with the highest quality.

    Raises:
        HTTPException: 406, none of them is known.
    """
    found: ResponseFormat | None = None
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
        raise HTTPException(406, "responses are image/png, image/png; variant=overlay or application/json")
    return found


def _quality(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def _add_states(app: FastAPI, service: Service) -> None:
    @app.get(
        HEALTH_PATH,
        summary="Whether the server is alive",
        responses=OPEN_ERRORS,
        response_description="it is",
    )
    async def healthz() -> State:
        """200 as long as the process works."""
        return State(status="alive")

    @app.get(
        READY_PATH,
        summary="Whether the server would take a request",
        responses=OPEN_ERRORS | {503: {"model": State | Error, "description": "it would not"}},
        response_description="it would",
    )
    async def readyz(response: Response) -> State:
        """503 while the queue is full or the network's thread has ended."""
        if service.ready:
            return State(status="ready")
        response.status_code = 503
        return State(status="full")

    @app.get(
        METRICS_PATH,
        summary="Counters for Prometheus",
        response_class=Response,
        responses={200: METRICS_RESPONSE, **TOKEN_ERRORS},
    )
    async def metrics() -> Response:
        """Requests by status, seconds, queue length, batch sizes, the process's memory."""
        return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)


def _add_pages(app: FastAPI) -> None:
    def add(path: str, content: bytes, media_type: str) -> None:
        async def page() -> Response:
            return Response(content, media_type=media_type)

        app.add_api_route(path, page, include_in_schema=False)

    add(PAGE_PATH, render_page().encode(), "text/html")
    for path, (name, media_type) in PAGE_FILES.items():
        add(path, read_part(name).encode(), media_type)

    @app.get(DOCS_PATH, include_in_schema=False)
    async def docs() -> HTMLResponse:
        template = open_template("segdistill.serving", "docs.html.j2")
        return HTMLResponse(template.render(api=app.openapi()))


def _add_error_handlers(app: FastAPI) -> None:
    """Every error becomes one line of JSON."""

    @app.exception_handler(StarletteHTTPException)
    async def refused(request: Request, error: StarletteHTTPException) -> JSONResponse:
        return error_response(error.status_code, error.detail, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return error_response(422, f"{'.'.join(map(str, first['loc']))}: {first['msg']}")

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        return internal_error()
