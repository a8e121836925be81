#!/usr/bin/env bash
# Everything that has to be measured on a GPU, in parts of at most ten minutes:
#   benchmarks/accelerator.sh kernel|inference|training|cache|accuracy|lite0|resolution|reference|camvid \
#       path/to/VOC2012 OUT [dotted.key=value ...]
# Each part prints its tables, and leaves them in OUT. From `accuracy` on they stop in time and are called again until
# they say nothing of unfinished runs; further arguments are settings of every run.
set -euo pipefail
part=$1 devkit=$2 out=$3
shift 3
cd "$(dirname "$0")/.."
mkdir -p "$out"
export PYTHONPATH=src COLUMNS=130

case $part in
  kernel)  # the Triton block against the plain one, compiled for this GPU and not interpreted
    python -m pytest -q tests/models/test_fused.py ;;
  inference)
    for size in "256 256" "360 480" "512 512"; do
      for batch in 1 8 32; do
        # shellcheck disable=SC2086
        python benchmarks/inference.py --others --batch $batch --size $size
      done
    done ;;
  training)
    for batch in 8 32; do
      python benchmarks/training.py "$devkit" --cache "$out/logits" --images 512 --workers 8 --batch $batch --steps 20
      python benchmarks/training.py "$devkit" --cache "$out/logits" --images 512 --workers 8 --batch $batch --profile
    done
    python benchmarks/training.py "$devkit" --cache "$out/logits" --images 512 --workers 8 --agree 50 ;;
  cache)
    python benchmarks/cache.py --config configs/voc-animals-short.yaml --images 1000 ;;
  accuracy)
    python benchmarks/accuracy.py benchmarks/grids/voc-animals.yaml --out runs/accuracy-gpu --minutes 9.5 "$@" ;;
  lite0|resolution|reference)
    python benchmarks/accuracy.py "benchmarks/grids/$part.yaml" --out "runs/$part" --minutes 9.5 "$@" ;;
  camvid)
    python benchmarks/accuracy.py benchmarks/grids/camvid.yaml --out runs/accuracy-camvid --minutes 9.5 "$@" ;;
  *)
    sed -n '2,6p' "$0"; exit 2 ;;
esac 2>&1 | tee "$out/$part.txt"
