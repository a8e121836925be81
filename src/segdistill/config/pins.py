"""Versions of what is not of our own environment: packages of environments that uv makes, and of npm."""

_TORCH, _NUMPY = "torch==2.14.1", "numpy==2.4.6"

CONVERTER_PACKAGES = {
    "litert": ("litert-torch==0.10.0", _TORCH),
    "ncnn": ("pnnx==20261020",),
    "coreml": ("coremltools==9.0", _TORCH),
}
"""What writes a file, by name of the format."""

RUNTIME_PACKAGES = {
    "litert": ("ai-edge-litert==2.3.0", _NUMPY),
    "ncnn": ("ncnn==1.0.20261020", _NUMPY),
}
"""What runs a file, by name of the format."""

ORT_WEB, ORT_WEB_VERSION = "onnxruntime-web", "1.30.0"
ORT_WEB_SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
"""What runs a network in a browser: a package of npm, and the SHA-512 of its archive as npm publishes it."""
