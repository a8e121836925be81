"""What `--help` shows as examples: values of the options that are changed first, and whole command lines."""

TRAIN_FIRST = {
    "--data": "mydata",
    "--teacher": "mynet.py:teacher",
    "--student": "timm:tf_efficientnet_lite0",
    "--student.weights": "imagenet",
    "--size": "320",
    "--batch": "16",
    "--steps": "20000",
    "--evaluate_every": "1000",
    "--optim.lr": "5e-4",
    "--out": "runs/mine",
    "--resume": "",
}
"""What people change first of a training, each with an example."""

SEARCH_FIRST = {
    "--data": "mydata",
    "--teacher": "mynet.py:teacher",
    "--latency": "10ms",
    "--memory": "200MB",
    "--file_size": "8MB",
    "--runtime": "openvino",
    "--precision": "int8",
    "--size": "320",
    "--threads": "2",
    "--recipe": "configs/voc-animals-lite0.yaml",
    "--encoders": "'{mobilenetv3_small_100: imagenet}'",
    "--hours": "2",
    "--latency_on": "device",
    "--out": "runs/search",
}
"""What people change first of a search, each with an example."""

EXAMPLES = {
    "train": (
        "segdistill train --data mydata --teacher mynet.py:teacher --out runs/mine",
        "segdistill train --data mydata --student timm:resnet18 --steps 5000",
    ),
    "search": (
        "segdistill search --data mydata --teacher mynet.py:teacher --latency 10ms",
        "segdistill search --data mydata --latency 20ms --runtime onnx --hours 2",
    ),
    "cache": ("segdistill cache --data mydata --teacher runs/large --teacher.cache cache",),
    "evaluate": (
        "segdistill evaluate runs/mine --data mydata --data.split test",
        "segdistill evaluate mynet.py:teacher --data mydata --out scores.json",
    ),
    "compare": ("segdistill compare runs/distilled runs/alone --data mydata",),
    "verify": (
        "segdistill verify runs/mine/model.onnx --against runs/mine",
        "segdistill verify --certificate certificate.json",
    ),
    "calibrate": (
        "segdistill calibrate runs/mine",
        "segdistill calibrate runs/mine --data mydata --data.split calibration",
    ),
    "predict": (
        "segdistill predict runs/mine photos --out masks",
        "segdistill predict runs/mine 'photos/**/*.jpg' film.mp4 --runtime auto",
    ),
    "label": (
        "segdistill label runs/large photos --out labels --confidence 0.9",
        "segdistill label mynet.py:teacher photos --map.car vehicle --map.sky ignore",
    ),
    "export": (
        "segdistill export runs/mine --format onnx",
        "segdistill export runs/mine --format openvino --quantize int8 --data mydata",
    ),
    "benchmark": (
        "segdistill benchmark mynet.py:teacher runs/mine runs/mine/model.onnx",
        "segdistill benchmark runs/mine --size '[384, 512]' --forms '[eager, fused]'",
    ),
    "serve": (
        "segdistill serve runs/mine",
        "segdistill serve runs/mine/model.onnx --host 0.0.0.0 --token SECRET",
    ),
    "report": (
        "segdistill report runs/mine",
        "segdistill report runs/distilled runs/alone --out report.html",
    ),
    "pack": ("segdistill pack runs/mine --out packed",),
    "push": (
        "segdistill push runs/mine ORG/NAME --license apache-2.0",
        "segdistill push runs/mine ORG/NAME --dry_run page",
    ),
    "data init": ("segdistill data init mydata",),
    "data check": (
        "segdistill data check mydata",
        "segdistill data check mydata --split train",
    ),
    "data show": ("segdistill data show mydata --class cat --out cats.png",),
    "data convert": ("segdistill data convert mydata --out voc",),
    "data shard": ("segdistill data shard photos --out shards --shard_images 1000",),
    "data download": ("segdistill data download voc --root data",),
    "data shapes": ("segdistill data shapes --out shapes --train 100 --val 20",),
    "version": ("segdistill version --all",),
    "completion": ("segdistill completion bash",),
    "demo": (
        "segdistill demo",
        "segdistill demo --data mydata --teacher mynet.py:teacher --out runs/mydemo",
    ),
}
"""What the help of each verb ends with."""
