"""Converts an ONNX file to ncnn: `python ncnn.py GRAPH.onnx OUT.ncnn.param SHAPE`.

It runs in an environment of its own and imports nothing of segdistill. SHAPE is the input's, such as
[1,3,304,304].
"""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path


def main(graph: str, out: str, shape: str) -> None:
    """Run pnnx, which its package brings as a program."""
    package = find_spec("pnnx")
    assert package is not None
    assert package.submodule_search_locations is not None
    program = Path(package.submodule_search_locations[0]) / "pnnx"
    param = Path(out).absolute()  # pnnx runs elsewhere: it leaves files where it runs
    done = subprocess.run(
        [program, graph, f"inputshape={shape}", "fp16=0", f"ncnnparam={param}",
         f"ncnnbin={param.with_suffix('.bin')}"],
        capture_output=True, text=True, check=False, cwd=Path(graph).parent,
    )  # fmt: skip
    unknown = [line for line in done.stderr.splitlines() if line.startswith("ignore ")]
    if done.returncode or unknown or not param.is_file():
        raise SystemExit(f"pnnx: {unknown[0] if unknown else done.stderr[-300:] or done.returncode}")


if __name__ == "__main__":
    main(*sys.argv[1:])
