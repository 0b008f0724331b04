#!/usr/bin/env bash
# Installs schemathesis, starts a server with these models, and holds its answers against its own OpenAPI document.
#
#   reference/load/schema.sh FOLDER DISTILBERT --model NAME=MODEL ...
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=${1:?expected a folder to install into}
binary=${2:?expected the program}
shift 2
[[ -x $folder/bin/schemathesis ]] || {
    python3 -m venv "$folder"
    "$folder/bin/pip" install --quiet --requirement "$here/requirements-schema.txt"
}
log=$(mktemp)
"$binary" serve --port 0 --log none "$@" 2>"$log" &
server=$!
trap 'kill $server; rm -f "$log"' EXIT
until address=$(sed -n 's/^listening on //p' "$log") && [[ -n $address ]]; do
    kill -0 $server 2>/dev/null || { cat "$log" >&2; exit 1; }
    sleep 0.2
done
"$folder/bin/schemathesis" --config-file "$here/schemathesis.toml" run "$address/openapi.json" --seed 1 --request-timeout 60 --no-color --continue-on-failure
