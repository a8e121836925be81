"""The server's paths, in one table: what they are, which belong to the page, and which need no token."""

SEGMENT_PATH = "/v1/segment"
MODEL_PATH = "/v1/model"
HEALTH_PATH = "/healthz"
READY_PATH = "/readyz"
METRICS_PATH = "/metrics"
DOCS_PATH = "/docs"
OPENAPI_PATH = "/openapi.json"

PAGE_PATH = "/"

PAGE_FILES = {
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/backend.js": ("http.js", "text/javascript"),
    "/drawing.js": ("drawing.js", "text/javascript"),
    "/legend.js": ("legend.js", "text/javascript"),
    "/live.js": ("live.js", "text/javascript"),
    "/png.js": ("png.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
"""What the page loads: path -> file in `segdistill.page`, media type. Clients get no other file."""

OPEN_PATHS = frozenset(PAGE_FILES) | {PAGE_PATH, HEALTH_PATH, READY_PATH}
"""Need no token."""

PATHS = OPEN_PATHS | {SEGMENT_PATH, MODEL_PATH, METRICS_PATH, DOCS_PATH, OPENAPI_PATH}
"""All of them."""
