"""The JSON of the server's responses as pydantic models, from which FastAPI makes openapi.json."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=0)]
Channel = Annotated[int, Field(ge=0, le=255)]
RGB = tuple[Channel, Channel, Channel]
ClassIndex = Annotated[int, Field(ge=0, le=254)]

PNG: dict[str, Any] = {"image/png": {"schema": {"type": "string", "format": "binary"}}}


class Error(BaseModel):
    """The body of every response that is an error."""

    model_config = ConfigDict(extra="forbid")

    error: str = Field(description="what is wrong, on one line")


class State(BaseModel):
    """Health or readiness."""

    status: Literal["alive", "ready", "full"]


class MaskClass(BaseModel):
    """A class that occurs in a mask."""

    index: ClassIndex
    name: str
    colour: RGB
    pixels: Count
    share: float = Field(ge=0, le=1, description="of all pixels")
    runs: list[Count] = Field(description="start, length, start, length, ... in the mask read row by row")


class Mask(BaseModel):
    """A mask as runs of its classes."""

    width: Count
    height: Count
    classes: list[MaskClass] = Field(description="largest first")
    seconds: dict[str, float] = Field(description="what decoding and the network took")


class ModelClass(BaseModel):
    """A class of a network."""

    index: ClassIndex
    name: str
    colour: RGB


class NetworkCard(BaseModel):
    """What a network is, without a path of the server's machine."""

    name: str
    classes: list[ModelClass]
    parameters: int | None
    architecture: str | None = Field(description="spec of a run's student; null for other networks")
    metrics: dict[str, float] = Field(description="scores of the run's last evaluation")


class Limits(BaseModel):
    """What the server accepts."""

    max_bytes: int
    max_pixels: int
    timeout_s: float


class Model(NetworkCard):
    """The model card: the network, how it is run, and what the server accepts."""

    size: int | None = Field(description="long side of the network's input in pixels; null for the image's")
    device: str
    limits: Limits


class Upload(BaseModel):
    """The form of a request for a mask."""

    image: bytes = Field(description="a JPEG, PNG, WebP, BMP or TIFF file")


UPLOAD: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"multipart/form-data": {"schema": Upload.model_json_schema()}},
    }
}
"""The request body of /v1/segment, which FastAPI does not parse itself: see `codec.read_upload`."""

Responses = dict[int | str, dict[str, Any]]


def errors(descriptions: dict[int, str]) -> Responses:
    """Error responses by status, each an `Error`."""
    return {status: {"model": Error, "description": text} for status, text in descriptions.items()}


OPEN_ERRORS = errors(
    {
        400: "the request is no HTTP, or its form cannot be read",
        431: "the header is too large",
        500: "a fault of the server; its log has the details",
        503: "the server is full; Retry-After has the seconds to wait",
    }
)
"""Errors of every path."""

TOKEN_ERRORS = OPEN_ERRORS | errors({401: "the token is missing or wrong"})
"""Errors of a path that needs the token."""

SEGMENT_ERRORS = TOKEN_ERRORS | errors(
    {
        406: "the Accept header names no media type that the server has",
        408: "the body did not arrive in time, or too slowly while others waited",
        413: "too many bytes or pixels",
        415: "no image of a known format",
        422: "the image is damaged or missing, or `format` is unknown",
        504: "the mask was not computed in time",
    }
)
"""Errors of /v1/segment."""

SEGMENT_RESPONSE: dict[str, Any] = {
    "model": Mask,
    "description": "mask: PNG of class indices with the classes' colours. overlay: PNG of the image under "
    "its classes' colours. json: the classes, largest first, and their pixels",
    "content": PNG,
}

METRICS_RESPONSE: dict[str, Any] = {
    "description": "Prometheus's text format",
    "content": {"text/plain": {"schema": {"type": "string"}}},
}
