"""Times PyTorch on a distillation step, as `cargo bench --bench training` times ours, or on inference.

train: DistilBERT-base from a BERT-base teacher (random weights), dropout on; KL on all positions, masked-LM, cosine;
clipping and AdamW. Loss and weights are the published ones. With --lengths the sequences have those lengths, in
batches in the order of the file, padded to the longest of the batch; the losses are of the real positions, as in the
published code, and tokens a second count real tokens. infer: the encoder's forward pass alone. Prints one JSON object.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
import transformers as hf
from torch import Tensor

TEMPERATURE = 2.0
MASKED_SHARE = 0.15
ALPHA_CE, ALPHA_MLM, ALPHA_COS = 5.0, 2.0, 1.0


def training_step(batches: Iterator[list[int]]) -> Callable[[], None]:
    """A step on the next batch, given as the lengths of its sequences."""
    teacher = hf.BertForMaskedLM(hf.BertConfig()).eval()
    student = hf.DistilBertForMaskedLM(hf.DistilBertConfig()).train()
    optimizer = torch.optim.AdamW(student.parameters(), lr=5e-4, eps=1e-6, betas=(0.9, 0.98), weight_decay=0.01)

    def step() -> None:
        ids, labels, real = random_masked_batch(next(batches), student.config.vocab_size)
        # Without padding every position is real, and nothing is selected or masked.
        mask, chosen = (None, ...) if real.all() else (real.long(), real)
        with torch.no_grad():
            t = teacher(input_ids=ids, attention_mask=mask, output_hidden_states=True)
        s = student(input_ids=ids, attention_mask=mask, output_hidden_states=True)
        s_logits, t_logits = s.logits[chosen].flatten(0, -2), t.logits[chosen].flatten(0, -2)
        s_states, t_states = s.hidden_states[-1][chosen], t.hidden_states[-1][chosen]
        target = F.softmax(t_logits / TEMPERATURE, -1)
        guess = F.log_softmax(s_logits / TEMPERATURE, -1)
        kl = F.kl_div(guess, target, reduction="batchmean") * TEMPERATURE**2
        mlm = F.cross_entropy(s_logits, labels[chosen].flatten())
        cos = 1 - F.cosine_similarity(s_states, t_states, -1).mean()
        (ALPHA_CE * kl + ALPHA_MLM * mlm + ALPHA_COS * cos).backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 5.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def random_masked_batch(lengths: list[int], vocab: int) -> tuple[Tensor, Tensor, Tensor]:
    """Random ids padded to the longest; labels are -100 where nothing is masked; which positions are real."""
    shape = (len(lengths), max(lengths))
    real = torch.arange(shape[1]) < torch.tensor(lengths)[:, None]
    ids = torch.randint(1000, vocab, shape)
    masked = (torch.rand(shape) < MASKED_SHARE) & real
    return torch.where(masked, 103, ids) * real, torch.where(masked, ids, -100), real


def read_lengths(path: Path, batch: int) -> list[list[int]]:
    """Whole batches only."""
    lengths = [int(line) for line in path.read_text(encoding="utf-8").split()]
    batches = [lengths[start : start + batch] for start in range(0, len(lengths) - batch + 1, batch)]
    if not batches:
        raise SystemExit(f"{path}: expected at least {batch} lengths, found {len(lengths)}")
    return batches


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
    parser.add_argument("--precision", choices=("f32", "bf16"), default="f32", help="bf16: autocast (default f32)")
    parser.add_argument("--lengths", type=Path, help="train: a file of lengths instead of --seq, see lengths.py")
    parser.add_argument("--batch", type=int, default=8, help="sequences (default %(default)s)")
    parser.add_argument("--seq", type=int, default=128, help="tokens of each (default %(default)s)")
    parser.add_argument("--steps", type=int, default=5, help="timed steps (default %(default)s)")
    parser.add_argument("--warmup", type=int, default=1, help="steps before them (default %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="default %(default)s")
    arguments = parser.parse_args()
    if arguments.mode == "train" and arguments.model:
        parser.error("--model is for infer")
    if arguments.mode == "infer" and arguments.lengths:
        parser.error("--lengths is for train")

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(7)
    batch, seq, warmup, steps = arguments.batch, arguments.seq, arguments.warmup, arguments.steps
    batches = read_lengths(arguments.lengths, batch) if arguments.lengths else [[seq] * batch]
    # The timed steps begin with the file.
    order = [batches[(number - warmup) % len(batches)] for number in range(warmup + steps)]
    tokens = sum(map(sum, order[warmup:]))
    train = arguments.mode == "train"
    step = training_step(iter(order)) if train else inference_step(arguments.model, batch, seq)
    with torch.autocast("cpu", enabled=arguments.precision == "bf16"):
        for _ in range(warmup):
            step()
        seconds = [seconds_of(step) for _ in range(steps)]
    median = statistics.median(seconds)
    result = vars(arguments) | {
        "lengths": arguments.lengths and str(arguments.lengths),
        "tokens": tokens,
        "seconds_p50": median,
        "seconds_min": min(seconds),
        "seconds_max": max(seconds),
        # Steps differ in length, so that the mean is what they share.
        "tokens_per_second": tokens / sum(seconds) if arguments.lengths else batch * seq / median,
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
