"""What openapi.json says of the answers, beside what FastAPI finds out by itself."""

from typing import Any

ERROR: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "additionalProperties": False,
    "properties": {"error": {"type": "string", "description": "what is wrong, on one line"}},
}

COLOUR = {
    "type": "array", "minItems": 3, "maxItems": 3,
    "items": {"type": "integer", "minimum": 0, "maximum": 255},
}  # fmt: skip

COUNT = {"type": "integer", "minimum": 0}

CLASS = {
    "type": "object",
    "required": ["index", "name", "colour", "pixels", "share", "runs"],
    "properties": {
        "index": {"type": "integer", "minimum": 0, "maximum": 254},
        "name": {"type": "string"},
        "colour": COLOUR,
        "pixels": COUNT,
        "share": {"type": "number", "minimum": 0, "maximum": 1, "description": "of all pixels"},
        "runs": {
            "type": "array",
            "items": COUNT,
            "description": "start, length, start, length, ... in the mask read row by row",
        },
    },
}

MASK: dict[str, Any] = {
    "type": "object",
    "required": ["width", "height", "seconds", "classes"],
    "properties": {
        "width": COUNT,
        "height": COUNT,
        "seconds": {"type": "object", "additionalProperties": {"type": "number"}},
        "classes": {"type": "array", "items": CLASS, "description": "largest first"},
    },
}

MODEL: dict[str, Any] = {
    "type": "object",
    "required": ["name", "classes", "parameters", "metrics", "size", "device", "limits"],
    "properties": {
        "name": {"type": "string"},
        "classes": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["index", "name", "colour"],
                "properties": {"index": COUNT, "name": {"type": "string"}, "colour": COLOUR},
            },
        },
        "parameters": {"type": ["integer", "null"]},
        "metrics": {"type": "object", "additionalProperties": {"type": "number"}},
        "architecture": {"type": "string"},
        "size": {"type": ["integer", "null"], "description": "long side that the network sees, in pixels"},
        "device": {"type": "string"},
        "limits": {"type": "object", "additionalProperties": {"type": "number"}},
    },
}

STATE: dict[str, Any] = {
    "type": "object", "required": ["status"], "properties": {"status": {"type": "string"}},
}  # fmt: skip

SEGMENT: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {
                        "image": {
                            "type": "string",
                            "format": "binary",
                            "description": "a JPEG, PNG, WebP, BMP or TIFF file",
                        }
                    },
                }
            }
        },
    }
}


def answer(description: str, media_type: str, schema: dict[str, Any]) -> dict[str, Any]:
    """One answer of a path."""
    return {"description": description, "content": {media_type: {"schema": schema}}}


def error(description: str) -> dict[str, Any]:
    """An error: one line of JSON."""
    return answer(description, "application/json", ERROR)


Answers = dict[int | str, dict[str, Any]]

EVERYWHERE: Answers = {
    400: error("the request is no HTTP, or its form cannot be read"),
    431: error("the header is too large"),
    500: error("a fault of the server's; its log says more"),
    503: error("the server is full; Retry-After says when to come back"),
}
"""Errors that any path may answer with."""

CLOSED: Answers = EVERYWHERE | {401: error("the token is missing or wrong")}
"""Those of a path that needs the token."""

ERRORS: Answers = CLOSED | {
    406: error("the Accept header asks for nothing that there is"),
    408: error("the body did not arrive in time, or too slowly while others waited"),
    413: error("too many bytes or pixels"),
    415: error("no image of a known format"),
    422: error("the image is damaged or missing, or `format` is unknown"),
    504: error("no answer was found in time"),
}
"""Those of /v1/segment."""

SEGMENTED: dict[str, Any] = {
    "description": "mask: PNG of class indices with the classes' colours. overlay: PNG of the picture under "
    "its colours. json: the classes, largest first, and where they are",
    "content": {
        "image/png": {"schema": {"type": "string", "format": "binary"}},
        "application/json": {"schema": MASK},
    },
}

METRICS = answer("Prometheus's text form", "text/plain", {"type": "string"})
