"""A sentence encoder behind FastAPI with dynamic batching: what `distilbert serve` is compared with.

    peer_server.py prepare MODEL OUT               # the model as PyTorch and as fused ONNX, with pooling in the graph
    peer_server.py serve OUT --engine onnxruntime --precision int8 --port 9000

`POST /embed` takes `{"inputs": text | [text]}` and gives vectors of length one, as text-embeddings-inference does.
Texts of all requests wait in one queue; a thread takes what waits, up to --batch-texts and --batch-tokens (padded),
sorted by length so that little is padded, and runs one batch at a time on all cores. It does not wait for more to come:
with many clients the queue is never empty.
"""

import argparse
import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np

Batch = tuple[np.ndarray, np.ndarray]


def prepare(source: Path, out: Path) -> None:
    import torch
    import transformers as hf
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.transformers import optimizer
    from torch import Tensor, nn

    class Embedder(nn.Module):
        """Mean of the states, scaled to length one."""

        def __init__(self, model: hf.PreTrainedModel) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            states = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            mask = attention_mask.unsqueeze(-1).to(states.dtype)
            return nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=1)

    out.mkdir(parents=True, exist_ok=True)
    model = hf.AutoModel.from_pretrained(source, dtype=torch.float32, attn_implementation="eager").eval()
    hf.AutoTokenizer.from_pretrained(source).save_pretrained(out)
    model.save_pretrained(out)
    ids = torch.randint(1000, model.config.vocab_size, (2, 11))
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0
    dynamic = {0: "batch", 1: "seq"}
    # The exporter by tracing, whose graphs the optimiser knows.
    torch.onnx.export(
        Embedder(model),
        (ids, mask),
        str(out / "plain.onnx"),
        dynamo=False,
        opset_version=17,
        input_names=["input_ids", "attention_mask"],
        output_names=["embedding"],
        dynamic_axes={"input_ids": dynamic, "attention_mask": dynamic},
    )
    config = model.config
    fused = optimizer.optimize_model(
        str(out / "plain.onnx"),
        model_type="bert",
        num_heads=config.num_attention_heads,
        hidden_size=config.hidden_size,
        opt_level=0,
    )
    layers = sum(node.op_type == "Attention" for node in fused.model.graph.node)
    if layers != config.num_hidden_layers:
        raise SystemExit(f"fused graph: expected {config.num_hidden_layers} attention nodes, found {layers}")
    fused.save_model_to_file(str(out / "f32.onnx"))
    tensors = {"DefaultTensorType": 1}
    quantize_dynamic(out / "f32.onnx", out / "int8.onnx", weight_type=QuantType.QInt8, extra_options=tensors)


class OnnxRuntime:
    def __init__(self, folder: Path, precision: str, threads: int) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        # Threads that spin would take the cores from the clients and the server.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        graph = str(folder / f"{precision}.onnx")
        self.session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def run(self, batch: Batch) -> np.ndarray:
        return self.session.run(None, {"input_ids": batch[0], "attention_mask": batch[1]})[0]


class PyTorch:
    def __init__(self, folder: Path, precision: str, threads: int) -> None:
        import torch
        import transformers as hf

        torch.set_num_threads(threads)
        self.torch = torch
        self.model = hf.AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa").eval()
        if precision == "int8":
            torch.backends.quantized.engine = "x86"
            self.model = torch.ao.quantization.quantize_dynamic(self.model, {torch.nn.Linear}, torch.qint8)

    def run(self, batch: Batch) -> np.ndarray:
        ids, mask = map(self.torch.from_numpy, batch)
        with self.torch.inference_mode():
            states = self.model(input_ids=ids, attention_mask=None if mask.all() else mask).last_hidden_state
            weights = mask.unsqueeze(-1).to(states.dtype)
            pooled = (states * weights).sum(1) / weights.sum(1)
            return self.torch.nn.functional.normalize(pooled, dim=1).numpy()


ENGINES = {"onnxruntime": OnnxRuntime, "pytorch": PyTorch}


class Batcher:
    """One queue for the texts of all requests, and one batch at a time."""

    def __init__(self, engine: Any, texts: int, tokens: int) -> None:
        self.engine, self.texts, self.tokens = engine, texts, tokens
        self.waiting: list[tuple[list[int], asyncio.Future]] = []
        self.came = asyncio.Event()

    async def embed(self, sequences: list[list[int]]) -> list[np.ndarray]:
        if not sequences:
            return []
        loop = asyncio.get_running_loop()
        futures = [loop.create_future() for _ in sequences]
        self.waiting.extend(zip(sequences, futures, strict=True))
        self.came.set()
        return await asyncio.gather(*futures)

    async def run(self) -> None:
        while True:
            await self.came.wait()
            taken = self.take()
            if not self.waiting:
                self.came.clear()
            try:
                rows = await asyncio.to_thread(self.engine.run, pad([ids for ids, _ in taken]))
            except Exception as error:
                for _, future in taken:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), row in zip(taken, rows, strict=True):
                if not future.done():
                    future.set_result(row)

    def take(self) -> list[tuple[list[int], asyncio.Future]]:
        """The oldest text and those that came next to it in length, within the limits."""
        oldest = self.waiting[0]
        candidates = sorted(self.waiting[: 4 * self.texts], key=lambda item: len(item[0]))
        place = next(i for i, item in enumerate(candidates) if item is oldest)
        low = high = place
        while high - low + 1 < self.texts:
            # The neighbour that is nearer in length, if the padded batch stays within its tokens.
            below = len(oldest[0]) - len(candidates[low - 1][0]) if low > 0 else None
            above = len(candidates[high + 1][0]) - len(oldest[0]) if high + 1 < len(candidates) else None
            if below is None and above is None:
                break
            if above is None or (below is not None and below <= above):
                longest = len(candidates[high][0])
                low_next, high_next = low - 1, high
            else:
                longest = len(candidates[high + 1][0])
                low_next, high_next = low, high + 1
            if (high_next - low_next + 1) * longest > self.tokens:
                break
            low, high = low_next, high_next
        taken = candidates[low : high + 1]
        gone = {id(item) for item in taken}
        self.waiting = [item for item in self.waiting if id(item) not in gone]
        return taken


def pad(sequences: list[list[int]]) -> Batch:
    ids = np.zeros((len(sequences), max(map(len, sequences))), np.int64)
    mask = np.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = sequence
        mask[row, : len(sequence)] = 1
    return ids, mask


def serve(args: argparse.Namespace) -> None:
    import orjson
    import uvicorn
    from fastapi import FastAPI, Request, Response
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(args.folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(args.max_length)
    engine = ENGINES[args.engine](args.folder, args.precision, args.threads)
    batcher = Batcher(engine, args.batch_texts, args.batch_tokens)

    @asynccontextmanager
    async def batching(_: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(batcher.run())
        yield
        task.cancel()

    app = FastAPI(lifespan=batching)

    @app.post("/embed")
    async def embed(request: Request) -> Response:
        inputs = orjson.loads(await request.body())["inputs"]
        texts = [inputs] if isinstance(inputs, str) else inputs
        rows = await batcher.embed([encoding.ids for encoding in tokenizer.encode_batch(texts)])
        return Response(orjson.dumps(rows, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")

    uvicorn.run(app, host="127.0.0.1", port=args.port, log_level="warning", access_log=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    preparing = commands.add_parser("prepare")
    preparing.add_argument("model", type=Path)
    preparing.add_argument("out", type=Path)
    serving = commands.add_parser("serve")
    serving.add_argument("folder", type=Path)
    serving.add_argument("--engine", choices=ENGINES, required=True)
    serving.add_argument("--precision", choices=("f32", "int8"), default="f32", help="int8: quantised by the engine")
    serving.add_argument("--port", type=int, default=9000)
    serving.add_argument("--threads", type=int, default=2)
    serving.add_argument("--batch-texts", type=int, default=32)
    serving.add_argument("--batch-tokens", type=int, default=4096, help="padding counted")
    serving.add_argument("--max-length", type=int, default=256, help="tokens of a text; MiniLM's own limit")
    args = parser.parse_args()
    if args.command == "prepare":
        prepare(args.model, args.out)
    else:
        serve(args)


if __name__ == "__main__":
    main()
