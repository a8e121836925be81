"""Converts a torch.export file to LiteRT: `python litert.py GRAPH.pt2 OUT.tflite [int8]`.

It runs in an environment of its own and imports nothing of segdistill. `int8` stores weights in 8 bits, per
output channel; the runtime computes in 8 bits and finds the range of each map at each pass.
"""

import sys
from pathlib import Path

import litert_torch
import torch
import torch.nn.functional as F
from ai_edge_quantizer import quantizer, recipe


def main(graph: str, out: str, number_type: str = "float32") -> None:
    """Convert, and quantize where int8 is asked for."""
    program = torch.export.load(graph)
    module = program.module()
    resize_points(module)
    litert_torch.convert(module, tuple(program.example_inputs[0])).export(out)
    if number_type == "int8":
        quantize(Path(out))


def resize_points(module: torch.fx.GraphModule) -> None:
    """Repeat maps of one pixel by resizing them: the converter broadcasts them along the wrong axes."""
    for node in list(module.graph.nodes):
        if node.target not in {torch.ops.aten.expand.default, torch.ops.aten.expand_as.default}:
            continue
        shape, given = node.meta["val"].shape, node.args[0].meta["val"].shape
        if len(shape) == 4 and given[2:] == (1, 1):
            with module.graph.inserting_before(node):
                resized = module.graph.call_function(F.interpolate, (node.args[0], tuple(shape[2:])))
            node.replace_all_uses_with(resized)
            module.graph.erase_node(node)
    module.recompile()


def quantize(path: Path) -> None:
    """Replace a float file by an int8 one; its input and output stay what they are."""
    # LiteRT multiplies no int8 matrix by maps in float, as upsampling by two products of matrices asks for.
    floats = {"regex": ".*", "operation": "BATCH_MATMUL", "algorithm_key": "no_quantize"}
    work = quantizer.Quantizer(str(path), [*recipe.dynamic_wi8_afp32(), floats])
    work.quantize().export_model(str(path), overwrite=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
