#!/usr/bin/env bash
# Installs the four peers, pinned, into a Python 3.11 environment of their own (about 7 GB: PyTorch's wheel brings CUDA,
# which is not used).
#
#   reference/peers/install.sh FOLDER
set -euo pipefail
folder=${1:?expected the folder to install into}
python3.11 -m venv "$folder"
"$folder/bin/pip" install --quiet --requirement "$(dirname "$0")/requirements.txt"
"$folder/bin/python" -c '
import ctranslate2, onnxruntime, openvino, torch
for peer in (torch, onnxruntime, openvino, ctranslate2):
    print(peer.__name__, peer.__version__)'
