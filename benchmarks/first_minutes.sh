#!/usr/bin/env bash
# What a new user types first, with the seconds that each command takes: from the clone to the mask of a photograph.
#   benchmarks/first_minutes.sh path/to/camvid OUT
# OUT must not exist. The data set has images and masks in train, val and test, and no description yet. What each command
# prints is kept in OUT/*.log, the table in OUT/table.md.
set -euo pipefail
project=$(cd "$(dirname "$0")/.." && pwd)
data=$(realpath "$1")
mkdir "$2"
cd "$2"
cp -r "$data" camvid
printf '| command | seconds |\n| --- | --- |\n' > table.md

# timed COMMAND...: run it, and add it to the table
timed() {
  local before log
  log=$(printf 'step-%02d.log' "$(($(wc -l < table.md) - 1))")
  before=$EPOCHREALTIME
  "$@" > "$log" 2>&1 || { tail -n 20 "$log"; exit 1; }
  printf '| `%s` | %.1f |\n' "$*" "$(awk "BEGIN { print $EPOCHREALTIME - $before }")" | tee -a table.md
}

timed git clone --quiet "$project" segdistill
timed make --no-print-directory -C segdistill install
export PATH="$PWD/segdistill/.venv/bin:$PATH"
timed segdistill data init camvid
# What it asks for: the names of the classes, and that index 11 is void.
sed -i -e 's/^names: .*/names: [sky, building, pole, road, pavement, tree, sign, fence, car, pedestrian, bicyclist]/' \
  -e 's/^void: .*/void: 11/' camvid/dataset.yaml
timed segdistill data check camvid
timed segdistill train --data camvid --size 128 --steps 100 --out large
timed segdistill train --data camvid --teacher large --student.width 0.5 --size 128 --steps 100 --out small
timed segdistill report large small --out report.html
timed segdistill export small --format onnx --out small.onnx
timed segdistill predict small.onnx "$(find camvid/test/images -type f | sort | head -n 1)" --out masks
