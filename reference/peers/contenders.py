"""The peers, each at its best on a CPU: how it loads, and how it runs one batch.

A runner takes a prepared batch (`feed`, outside the timing) and computes it (`run`, timed): every token's last state,
or the logits. Padding is to the longest sequence of the batch; a batch of equal lengths has no mask where a peer can
do without one.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np

Work = Literal["all-states", "as-used"]
Batch = list[list[int]]
OUTPUTS: dict[Work, str] = {"all-states": "last_hidden_state", "as-used": "logits"}


def pad(batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    """`input_ids` and `attention_mask` (1 = real token), `[batch, longest]`."""
    ids = np.zeros((len(batch), max(map(len, batch))), np.int64)
    mask = np.zeros_like(ids)
    for row, sequence in enumerate(batch):
        ids[row, : len(sequence)] = sequence
        mask[row, : len(sequence)] = 1
    return ids, mask


class Runner(ABC):
    """One peer in one precision."""

    @abstractmethod
    def shape(self, batches: list[Batch]) -> None:
        """Told before the batches come, so that a peer that compiles for a shape can."""

    @abstractmethod
    def feed(self, batch: Batch) -> Any:
        """The batch as the peer takes it."""

    @abstractmethod
    def run(self, fed: Any) -> np.ndarray:
        """The states `[batch, longest, hidden]` or logits `[batch, labels]`."""


class PyTorch(Runner):
    def __init__(self, folder: Path, work: Work, threads: int, variant: str) -> None:
        import torch
        import transformers as hf

        hf.logging.set_verbosity_error()
        torch.set_num_threads(threads)
        self.torch = torch
        dtype = torch.bfloat16 if variant == "bf16" else torch.float32
        loader = hf.AutoModelForSequenceClassification
        model = loader.from_pretrained(folder / "model", dtype=dtype, attn_implementation="sdpa").eval()
        if variant == "int8":
            torch.backends.quantized.engine = "x86"
            model = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, torch.qint8)
        self.autocast = variant == "autocast"
        self.work = work
        self.model = model if work == "as-used" else model.base_model

    def shape(self, batches: list[Batch]) -> None:
        pass

    def feed(self, batch: Batch) -> Any:
        ids, mask = map(self.torch.from_numpy, pad(batch))
        return (ids, None) if mask.all() else (ids, mask)

    def run(self, fed: Any) -> np.ndarray:
        ids, mask = fed
        with self.torch.inference_mode(), self.torch.autocast("cpu", enabled=self.autocast):
            output = self.model(input_ids=ids, attention_mask=mask)
        return (output.logits if self.work == "as-used" else output.last_hidden_state).float().numpy()


class OnnxRuntime(Runner):
    def __init__(self, folder: Path, work: Work, threads: int, variant: str) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        path = str(folder / "onnx" / f"{variant}.onnx")
        self.session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.output = OUTPUTS[work]

    def shape(self, batches: list[Batch]) -> None:
        pass

    def feed(self, batch: Batch) -> Any:
        ids, mask = pad(batch)
        return {"input_ids": ids, "attention_mask": mask}

    def run(self, fed: Any) -> np.ndarray:
        return self.session.run([self.output], fed)[0]


class OpenVino(Runner):
    def __init__(self, folder: Path, work: Work, threads: int, variant: str) -> None:
        import openvino as ov

        name, precision = variant.split("/")
        self.core = ov.Core()
        model = self.core.read_model(folder / "openvino" / f"{name}.xml")
        result = next(r for r in model.get_results() if OUTPUTS[work] in r.input(0).get_source_output().get_names())
        self.model = ov.Model([result], model.get_parameters())
        self.settings = {
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        }
        self.request: Any = None

    def shape(self, batches: list[Batch]) -> None:
        """Compiles: for the one shape if all batches have it, which is a little faster than for any shape."""
        model = self.model.clone()
        shapes = {(len(batch), max(map(len, batch))) for batch in batches}
        if len(shapes) == 1:
            model.reshape(dict.fromkeys(("input_ids", "attention_mask"), list(shapes.pop())))
        self.request = None
        self.request = self.core.compile_model(model, "CPU", self.settings).create_infer_request()

    def feed(self, batch: Batch) -> Any:
        ids, mask = pad(batch)
        return {"input_ids": ids, "attention_mask": mask}

    def run(self, fed: Any) -> np.ndarray:
        return self.request.infer(fed, share_inputs=True, share_outputs=True)[0]


class CTranslate2(Runner):
    """The encoder; the classification head, which it does not have, is two small products in NumPy."""

    def __init__(self, folder: Path, work: Work, threads: int, variant: str) -> None:
        os.environ["OMP_NUM_THREADS"] = str(threads)
        import ctranslate2
        from safetensors.numpy import load_file

        self.view = ctranslate2.StorageView
        self.encoder = ctranslate2.Encoder(
            str(folder / "ctranslate2"), device="cpu", compute_type=variant, intra_threads=threads, inter_threads=1
        )
        self.head: list[tuple[np.ndarray, np.ndarray]] = []
        if work == "as-used":
            tensors = load_file(folder / "model" / "model.safetensors")
            names = ("pre_classifier", "classifier")
            self.head = [(np.ascontiguousarray(tensors[f"{name}.weight"].T), tensors[f"{name}.bias"]) for name in names]

    def shape(self, batches: list[Batch]) -> None:
        pass

    def feed(self, batch: Batch) -> Any:
        ids, mask = pad(batch)
        lengths = mask.sum(1).astype(np.int32)
        return self.view.from_array(ids.astype(np.int32)), self.view.from_array(lengths)

    def run(self, fed: Any) -> np.ndarray:
        ids, lengths = fed
        states = np.array(self.encoder.forward_batch(ids, lengths).last_hidden_state)
        if not self.head:
            return states
        (dense, dense_bias), (classifier, bias) = self.head
        return np.maximum(states[:, 0] @ dense + dense_bias, 0) @ classifier + bias


Make = Callable[[Path, Work, int], Runner]


def of(kind: Callable[..., Runner], variant: str) -> Make:
    return lambda folder, work, threads: kind(folder, work, threads, variant)


# For each precision: a peer's name, what is special about this way of running it, and how to make it. Where two ways
# compete for a peer's best, both run, and the faster one of each row counts.
CONTENDERS: dict[str, dict[tuple[str, str], Make]] = {
    "f32": {
        ("PyTorch", ""): of(PyTorch, "f32"),
        ("ONNX Runtime", ""): of(OnnxRuntime, "f32"),
        ("ONNX Runtime", "fused"): of(OnnxRuntime, "f32-fused"),
        ("OpenVINO", ""): of(OpenVino, "f32/f32"),
        ("CTranslate2", ""): of(CTranslate2, "float32"),
    },
    "bf16": {
        ("PyTorch", "autocast"): of(PyTorch, "autocast"),
        ("PyTorch", "weights in bf16"): of(PyTorch, "bf16"),
        ("OpenVINO", ""): of(OpenVino, "f32/bf16"),
    },
    "int8": {
        ("PyTorch", "dynamic"): of(PyTorch, "int8"),
        ("ONNX Runtime", "dynamic"): of(OnnxRuntime, "int8"),
        ("ONNX Runtime", "dynamic, fused"): of(OnnxRuntime, "int8-fused"),
        ("OpenVINO", "compressed weights"): of(OpenVino, "int8-weights/bf16"),
        ("OpenVINO", "post-training"): of(OpenVino, "int8/f32"),
        ("CTranslate2", ""): of(CTranslate2, "int8_float32"),
    },
}
