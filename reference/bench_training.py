"""Times PyTorch on the work that `distilbert bench` times: a distillation step, or inference.

train: DistilBERT-base from a BERT-base teacher (random weights), float32, dropout on; KL on all positions, masked-LM,
cosine; clipping and AdamW. Loss and weights are the published ones. infer: the encoder's forward pass alone.
Prints one JSON object.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
import transformers as hf
from torch import Tensor

TEMPERATURE = 2.0
MASKED_SHARE = 0.15
ALPHA_CE, ALPHA_MLM, ALPHA_COS = 5.0, 2.0, 1.0


def training_step(batch: int, seq: int) -> Callable[[], None]:
    teacher = hf.BertForMaskedLM(hf.BertConfig()).eval()
    student = hf.DistilBertForMaskedLM(hf.DistilBertConfig()).train()
    optimizer = torch.optim.AdamW(student.parameters(), lr=5e-4, eps=1e-6, betas=(0.9, 0.98), weight_decay=0.01)

    def step() -> None:
        ids, labels = random_masked_batch(batch, seq, student.config.vocab_size)
        with torch.no_grad():
            t = teacher(input_ids=ids, output_hidden_states=True)
        s = student(input_ids=ids, output_hidden_states=True)
        target = F.softmax(t.logits.flatten(0, 1) / TEMPERATURE, -1)
        guess = F.log_softmax(s.logits.flatten(0, 1) / TEMPERATURE, -1)
        kl = F.kl_div(guess, target, reduction="batchmean") * TEMPERATURE**2
        mlm = F.cross_entropy(s.logits.flatten(0, 1), labels.flatten())
        cos = 1 - F.cosine_similarity(s.hidden_states[-1], t.hidden_states[-1], -1).mean()
        (ALPHA_CE * kl + ALPHA_MLM * mlm + ALPHA_COS * cos).backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 5.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def random_masked_batch(batch: int, seq: int, vocab: int) -> tuple[Tensor, Tensor]:
    """Full sequences, nothing padded; labels are -100 where nothing is masked."""
    ids = torch.randint(1000, vocab, (batch, seq))
    masked = torch.rand(batch, seq) < MASKED_SHARE
    return torch.where(masked, 103, ids), torch.where(masked, ids, -100)


def inference_step(model: str | None, batch: int, seq: int) -> Callable[[], None]:
    encoder = hf.AutoModel.from_pretrained(model) if model else hf.DistilBertModel(hf.DistilBertConfig())
    encoder.eval()
    ids = torch.randint(1000, encoder.config.vocab_size, (batch, seq))

    @torch.inference_mode()
    def step() -> None:
        encoder(input_ids=ids)

    return step


def seconds_of(step: Callable[[], None]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=("train", "infer"))
    parser.add_argument("--model", help="infer: a Hugging Face folder (default: DistilBERT-base, random weights)")
    parser.add_argument("--batch", type=int, default=8, help="sequences (default %(default)s)")
    parser.add_argument("--seq", type=int, default=128, help="tokens of each (default %(default)s)")
    parser.add_argument("--steps", type=int, default=5, help="timed steps (default %(default)s)")
    parser.add_argument("--warmup", type=int, default=1, help="steps before them (default %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="default %(default)s")
    arguments = parser.parse_args()
    if arguments.mode == "train" and arguments.model:
        parser.error("--model is for infer")

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(7)
    batch, seq = arguments.batch, arguments.seq
    step = training_step(batch, seq) if arguments.mode == "train" else inference_step(arguments.model, batch, seq)
    for _ in range(arguments.warmup):
        step()
    seconds = [seconds_of(step) for _ in range(arguments.steps)]
    median = statistics.median(seconds)
    result = vars(arguments) | {
        "seconds_p50": median,
        "seconds_min": min(seconds),
        "seconds_max": max(seconds),
        "tokens_per_second": batch * seq / median,
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "torch": torch.__version__,
        "transformers": hf.__version__,
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
    }
    print(json.dumps(result))


def cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


if __name__ == "__main__":
    main()
