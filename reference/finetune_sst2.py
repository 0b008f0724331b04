"""Fine-tunes a BERT or DistilBERT checkpoint on SST-2 in PyTorch: the baseline for `distilbert finetune`.

Float32, or bf16 by autocast; every batch is padded to its own longest sentence; linear warm-up and decay. Prints one
JSON object an epoch: dev accuracy, training sentences per second, and peak memory.
"""

import argparse
import csv
import json
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import transformers as hf
from torch import Tensor

from common import pad

EVALUATION_BATCH = 64


def read_tsv(path: Path) -> tuple[list[str], list[int]]:
    with path.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [row["sentence"] for row in rows], [int(row["label"]) for row in rows]


def batches(
    ids: list[list[int]], labels: list[int], order: list[int], size: int, pad_id: int
) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
    for start in range(0, len(order), size):
        chosen = order[start : start + size]
        yield pad([ids[i] for i in chosen], pad_id), torch.tensor([labels[i] for i in chosen])


@torch.inference_mode()
def accuracy(model: hf.PreTrainedModel, ids: list[list[int]], labels: list[int]) -> float:
    model.eval()
    by_length = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    right = 0
    for inputs, gold in batches(ids, labels, by_length, EVALUATION_BATCH, model.config.pad_token_id):
        right += (model(**inputs).logits.argmax(-1) == gold).sum().item()
    return right / len(ids)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a Hugging Face folder; without a classification head it gets a new one")
    parser.add_argument("data", type=Path, help="the folder of train.tsv and dev.tsv")
    parser.add_argument("--precision", choices=("f32", "bf16"), default="f32", help="bf16: autocast (default f32)")
    parser.add_argument("--epochs", type=int, default=3, help="default %(default)s")
    parser.add_argument("--batch", type=int, default=32, help="sentences (default %(default)s)")
    parser.add_argument("--lr", type=float, default=2e-5, help="default %(default)s")
    parser.add_argument("--warmup", type=float, default=0.1, help="share of all steps (default %(default)s)")
    parser.add_argument(
        "--weight-decay", type=float, default=0.01, help="not of biases and norms (default %(default)s)"
    )
    parser.add_argument("--max-length", type=int, default=128, help="tokens (default %(default)s)")
    parser.add_argument("--limit", type=int, help="only the first so many training sentences")
    parser.add_argument("--seed", type=int, default=7, help="default %(default)s")
    parser.add_argument("--threads", type=int, default=2, help="default %(default)s")
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    tokenizer = hf.AutoTokenizer.from_pretrained(arguments.model)

    def encode(file: str, limit: int | None = None) -> tuple[list[list[int]], list[int]]:
        sentences, labels = read_tsv(arguments.data / file)
        encoded = tokenizer(sentences[:limit], truncation=True, max_length=arguments.max_length)
        return encoded["input_ids"], labels[:limit]

    ids, labels = encode("train.tsv", arguments.limit)
    dev_ids, dev_labels = encode("dev.tsv")
    model = hf.AutoModelForSequenceClassification.from_pretrained(arguments.model, num_labels=2, dtype=torch.float32)
    decayed = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": decayed, "weight_decay": arguments.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=arguments.lr)
    total = arguments.epochs * -(-len(ids) // arguments.batch)
    schedule = hf.get_linear_schedule_with_warmup(optimizer, round(arguments.warmup * total), total)

    for epoch in range(1, arguments.epochs + 1):
        model.train()
        order = torch.randperm(len(ids)).tolist()
        start, loss_sum = time.perf_counter(), 0.0
        for inputs, gold in batches(ids, labels, order, arguments.batch, model.config.pad_token_id):
            with torch.autocast("cpu", enabled=arguments.precision == "bf16"):
                loss = model(**inputs, labels=gold).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            loss_sum += loss.item() * len(gold)
        seconds = time.perf_counter() - start
        report = {
            "epoch": epoch,
            "train_loss": loss_sum / len(ids),
            "dev_accuracy": accuracy(model, dev_ids, dev_labels),
            "sentences_per_second": len(ids) / seconds,
            "precision": arguments.precision,
            "batch": arguments.batch,
            "threads": arguments.threads,
            "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "torch": torch.__version__,
        }
        print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
