#!/usr/bin/env bash
# The published headline on its own shapes: one pass over STS-B's dev pairs, one at a time, by BERT-base and by
# DistilBERT-base with random weights, in PyTorch f32 and in distilbert f32, in turns on the same threads.
#
#   reference/peers/headline.sh OUT TOKENIZER STS-B/dev.tsv [compare.py's arguments, such as --rounds 3 --threads 1]
#
# OUT/results.jsonl gets the measurements and OUT/headline.md the table. PYTHON (default venv/bin/python) is an environment
# that install.sh has made; BINARY (default target/release/distilbert) the built program.
set -euo pipefail
out=${1:?expected the folder to write} tokenizer=${2:?expected a folder with a tokenizer} stsb=${3:?expected dev.tsv of STS-B}
shift 3
here=$(dirname "$0") python=${PYTHON:-venv/bin/python} binary=${BINARY:-target/release/distilbert}
mkdir -p "$out"
for model in bert distilbert; do
    "$python" "$here/prepare.py" "$out/$model" --architecture $model --pytorch-only --tokenizer "$tokenizer" --stsb "$stsb"
    "$python" "$here/compare.py" "$out/$model" "$out/results.jsonl" --binary "$binary" \
        --commit "$(git -C "$here" describe --always --dirty)" --work as-used --precision f32 --rows pairs \
        --only distilbert PyTorch --rounds 1 "$@"
done
"$python" "$here/render.py" "$out/results.jsonl" "$out/headline.md"
