"""The verbs of `segdistill data`: they look at data sets, fetch one and draw one."""

from pathlib import Path

from segdistill.cli_examples import EXAMPLES
from segdistill.config.naming import setting
from segdistill.config.paths import HUB
from segdistill.config.show import ShowConfig
from segdistill.config.verbs import Options, Result, Verb
from segdistill.data.devkit_folder import DevkitFolder
from segdistill.data.formats.huggingface import IMAGE_COLUMN
from segdistill.data.formats.table import open_layout
from segdistill.data.formats.tar import TAR, find_tars, names_tars
from segdistill.data.shard_folder import check_out

TEXT = {"type": str | None, "default": None}
"""An option that is a text, or absent."""
PATH = {"help": "the data set's folder"}
LAYOUT = {"help": "a dataset.yaml kept elsewhere", **TEXT}


def check_data(options: Options) -> None:
    open_layout(options.path, options.data.layout)


def check_check(options: Options) -> None:
    if names_tars(options.path):
        for name, value in (("split", options.split), ("data.layout", options.data.layout)):
            if value is not None:
                raise ValueError(
                    f"{options.path} stands for {TAR} files of images without masks, which have no splits "
                    f"and no layout: leave {setting(name)} out"
                )
        find_tars(options.path)
    else:
        check_data(options)


def run_check(options: Options) -> Result:
    from segdistill.inspecting import check_dataset, check_tars

    if names_tars(options.path):
        return check_tars(options.path)
    return check_dataset(options.path, options.data.layout, options.split)


def run_init(options: Options) -> Result:
    from segdistill.describing import init_dataset

    return init_dataset(options.path, options.data.layout, overwrite=options.overwrite)


def check_show(options: Options) -> None:
    labels = open_layout(options.path, options.data.layout).labels
    if options.settings.class_name is not None:
        labels.index([options.settings.class_name])


def run_show(options: Options) -> Result:
    from segdistill.inspecting import show_dataset

    return show_dataset(options.path, options.settings, options.data.layout)


def check_convert(options: Options) -> None:
    check_data(options)
    DevkitFolder(options.out).check([options.path])


def run_convert(options: Options) -> Result:
    from segdistill.inspecting import convert_dataset

    return convert_dataset(options.path, options.out, options.data.layout)


def check_shard(options: Options) -> None:
    if not options.source.startswith(HUB) and not Path(options.source).is_dir():
        raise FileNotFoundError(f"{options.source} is neither a folder nor {HUB}ORG/NAME")
    check_out(Path(options.out))


def run_shard(options: Options) -> Result:
    from segdistill.inspecting import shard_images

    return shard_images(
        options.source,
        options.out,
        split=options.split,
        subset=options.subset,
        column=options.column,
        each=options.shard_images,
    )


def run_download(options: Options) -> Result:
    from segdistill.data.download import download_voc

    return {"devkit": str(download_voc(Path(options.root)))}


def run_shapes(options: Options) -> Result:
    from segdistill.data.shapes import write_shapes

    devkit = write_shapes(
        Path(options.out), seed=options.seed, train=options.train, val=options.val, size=options.size
    )
    return {"devkit": str(devkit)}


DATA_VERBS = {
    "init": Verb(
        help="find out how a folder can be read, and write its dataset.yaml",
        run=run_init,
        arguments={
            "path": {"help": "a folder of images and masks"},
            "--data.layout": {"help": "which way, where there are several (they are listed)", **TEXT},
            "--overwrite": {"action": "store_true", "help": "replace a dataset.yaml"},
        },
        examples=EXAMPLES["data init"],
    ),
    "check": Verb(
        help="read every pair: name bad files and duplicates, count classes",
        run=run_check,
        check=check_check,
        arguments={
            "path": {"help": "the data set's folder; or tar files of images: one, a folder, a pattern"},
            "--data.layout": LAYOUT,
            "--split": {"help": "one split; all where absent", **TEXT},
        },
        examples=EXAMPLES["data check"],
    ),
    "show": Verb(
        help="draw images with their masks, a legend and the shares of the classes",
        run=run_show,
        check=check_show,
        settings=ShowConfig,
        arguments={"path": PATH, "--data.layout": LAYOUT},
        examples=EXAMPLES["data show"],
    ),
    "convert": Verb(
        help="write a data set of any layout as a VOC devkit with index masks",
        run=run_convert,
        check=check_convert,
        arguments={
            "path": PATH,
            "--out": {"required": True, "help": "the devkit's folder; an interrupted call is continued"},
            "--data.layout": LAYOUT,
        },
        examples=EXAMPLES["data convert"],
    ),
    "shard": Verb(
        help="write images without masks into tar files, from a folder or a stream of Hugging Face",
        run=run_shard,
        check=check_shard,
        arguments={
            "source": {"help": "a folder of images, or hf:ORG/NAME[@REVISION]"},
            "--out": {"required": True, "help": "the folder of tar files; an interrupted call is continued"},
            "--shard_images": {"type": int, "default": 2000, "help": "images in each tar file"},
            "--split": {"help": "of a Hugging Face data set; train, or the only one, where absent", **TEXT},
            "--subset": {"help": "of a Hugging Face data set that has several", **TEXT},
            "--column": {"default": IMAGE_COLUMN, "help": "of a Hugging Face data set, with the images"},
        },
        examples=EXAMPLES["data shard"],
    ),
    "download": Verb(
        help="download PASCAL VOC 2012 (2 GB)",
        run=run_download,
        arguments={
            "name": {"choices": ["voc"], "help": "the data set"},
            "--root": {"required": True, "help": "the folder that gets VOCdevkit"},
        },
        examples=EXAMPLES["data download"],
    ),
    "shapes": Verb(
        help="draw the embedded data set, in VOC layout",
        run=run_shapes,
        arguments={
            "--out": {"required": True, "help": "the folder that gets VOCdevkit"},
            "--train": {"type": int, "default": 600, "help": "training images"},
            "--val": {"type": int, "default": 150, "help": "validation images"},
            "--size": {"type": int, "default": 128, "help": "height and width in pixels"},
            "--seed": {"type": int, "default": 0, "help": "seeds the drawing"},
        },
        examples=EXAMPLES["data shapes"],
    ),
}
