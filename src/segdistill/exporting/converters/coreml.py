"""Converts a torch.export file to Core ML: `python coreml.py GRAPH.pt2 OUT.mlpackage INPUT OUTPUT TEXT`.

It runs in an environment of its own and imports nothing of segdistill. INPUT is `image` or `tensor`; TEXT is
kept in the package as `segdistill`. The package is an ML program in float16, for iOS 16, macOS 13 or later.
"""

import sys

import coremltools
import torch


def main(graph: str, out: str, given: str, output: str, text: str) -> None:
    """Convert, write, and read the specification again."""
    program = torch.export.load(graph)
    shape = tuple(program.example_inputs[0][0].shape)
    if given == "image":
        image = coremltools.ImageType(name="image", shape=shape, color_layout=coremltools.colorlayout.RGB)
    else:
        image = coremltools.TensorType(name="image", shape=shape)
    model = coremltools.convert(
        program.run_decompositions({}),
        convert_to="mlprogram",
        inputs=[image],
        outputs=[coremltools.TensorType(name=output)],
        minimum_deployment_target=coremltools.target.iOS16,
        skip_model_load=True,
    )
    model.user_defined_metadata["segdistill"] = text
    model.save(out)
    check(out, shape)


def check(path: str, shape: tuple[int, ...]) -> None:
    """Raise a `ValueError` unless the package holds an ML program with one image in and one output."""
    model = coremltools.models.MLModel(path, skip_model_load=True)
    spec = model.get_spec()
    inputs, outputs = spec.description.input, spec.description.output
    if spec.WhichOneof("Type") != "mlProgram" or len(inputs) != 1 or len(outputs) != 1:
        raise ValueError(f"{path} is no ML program with one input and one output")
    kind = inputs[0].type
    if kind.WhichOneof("Type") == "imageType":
        found = (1, 3, kind.imageType.height, kind.imageType.width)
    else:
        found = tuple(kind.multiArrayType.shape)
    if found != shape:
        raise ValueError(f"{path} takes {found}, not {shape}")


if __name__ == "__main__":
    main(*sys.argv[1:])
