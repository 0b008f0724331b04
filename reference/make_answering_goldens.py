"""Makes crates/distilbert/tests/goldens/answering.json: windows, n-best answers and pipeline answers of two tiny
models.

    pip install torch==2.11.0 transformers==4.57.3
    python reference/make_answering_goldens.py transformers/examples/pytorch/question-answering

The argument is the folder of `utils_qa.py` in a clone of transformers, whose `postprocess_qa_predictions` gives the
n-best answers; which window of several gives a token is `run_squad.py`'s rule, from the package. 4.57.3 is the last
version with the question-answering pipeline.
"""

import argparse
import json
import pathlib
import random
import sys
import tempfile
from types import SimpleNamespace

import torch
from transformers import AutoModelForQuestionAnswering, BertTokenizerFast, pipeline
from transformers.data.processors.squad import _check_is_max_context

SEED = 20240614
GOLDENS = pathlib.Path(__file__).resolve().parent.parent / "crates/distilbert/tests/goldens"
MAX_LENGTH, DOC_STRIDE = 18, 5
# As many tokens as the models have: letters that begin a word, letters that go on.
VOCABULARY = (
    ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    + [chr(ord("a") + i) for i in range(26)]
    + ["##" + chr(ord("a") + i) for i in range(22)]
)


def words(rng: random.Random, least: int, most: int) -> list[str]:
    return [
        "".join(rng.choice("abcdefghijklmnopqrstuv") for _ in range(rng.choice([1, 1, 2, 3])))
        for _ in range(rng.randint(least, most))
    ]


def text(rng: random.Random, least: int, most: int) -> str:
    # Accents go in the tokens and stay in the text; a character outside of the vocabulary is [UNK].
    glued = "".join(word + rng.choice([" ", " ", "  ", "\u00a0", " 漢 "]) for word in words(rng, least, most)).strip()
    return glued.replace("a", "á", 1) if rng.random() < 0.5 else glued


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("examples", type=pathlib.Path)
    sys.path.insert(0, str(parser.parse_args().examples))
    from utils_qa import postprocess_qa_predictions

    rng = random.Random(SEED)
    cases = []
    for name in ["distilbert-qa", "bert-qa"]:
        model = AutoModelForQuestionAnswering.from_pretrained(GOLDENS / name).eval()
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "vocab.txt"
            path.write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
            tokenizer = BertTokenizerFast(vocab_file=str(path), do_lower_case=True, model_max_length=MAX_LENGTH)
        if name == "distilbert-qa":
            tokenizer.model_input_names = ["input_ids", "attention_mask"]
        pipe = pipeline("question-answering", model=model, tokenizer=tokenizer)
        for most in [2, 4, 9, 14, 20, 30]:
            question, context = text(rng, 1, 2), text(rng, most // 2 + 1, most)
            # Room for the context of twice the overlap at least: with less, ours overlap less.
            while len(tokenizer(question).input_ids) - 2 > MAX_LENGTH - 3 - 2 * DOC_STRIDE:
                question = text(rng, 1, 2)
            encoded = tokenizer(
                question,
                context,
                truncation="only_second",
                max_length=MAX_LENGTH,
                stride=DOC_STRIDE,
                return_overflowing_tokens=True,
                return_offsets_mapping=True,
            )
            features, starts, ends, spans, seen = [], [], [], [], 0
            for window, ids in enumerate(encoded["input_ids"]):
                batch = {"input_ids": torch.tensor([ids])}
                if "token_type_ids" in tokenizer.model_input_names:
                    batch["token_type_ids"] = torch.tensor([encoded["token_type_ids"][window]])
                with torch.no_grad():
                    output = model(**batch)
                starts.append(output.start_logits[0].numpy())
                ends.append(output.end_logits[0].numpy())
                sequence = encoded.sequence_ids(window)
                first, length = sequence.index(1), sequence.count(1)
                begin = 0 if window == 0 else seen - DOC_STRIDE
                spans.append(SimpleNamespace(start=begin, length=length, first=first))
                seen = begin + length
            for window, span in enumerate(spans):
                offsets = [
                    offset if encoded.sequence_ids(window)[i] == 1 else None
                    for i, offset in enumerate(encoded["offset_mapping"][window])
                ]
                max_context = {
                    str(span.first + i): _check_is_max_context(spans, window, span.start + i)
                    for i in range(span.length)
                }
                features.append({"example_id": "1", "offset_mapping": offsets, "token_is_max_context": max_context})
            examples = {"id": ["1"], "context": [context]}
            n_best = {}
            with tempfile.TemporaryDirectory() as folder:
                for negative in [False, True]:
                    postprocess_qa_predictions(
                        examples,
                        features,
                        (starts, ends),
                        version_2_with_negative=negative,
                        n_best_size=5,
                        max_answer_length=6,
                        output_dir=folder,
                    )
                    read = json.loads((pathlib.Path(folder) / "nbest_predictions.json").read_text())
                    n_best["with_null" if negative else "without_null"] = read["1"]
                odds = json.loads((pathlib.Path(folder) / "null_odds.json").read_text())["1"]
            ask = {"question": question, "context": context, "max_seq_len": MAX_LENGTH, "doc_stride": DOC_STRIDE}
            ranked = pipe(**ask, top_k=4, max_answer_len=6)
            impossible = pipe(**ask, top_k=3, max_answer_len=6, handle_impossible_answer=True)
            cases.append(
                {
                    "model": name,
                    "question": question,
                    "context": context,
                    "windows": [[span.start, span.start + span.length] for span in spans],
                    "n_best": n_best,
                    "null_odds": odds,
                    "ranked": ranked if isinstance(ranked, list) else [ranked],
                    "ranked_with_null": impossible if isinstance(impossible, list) else [impossible],
                }
            )
    golden = {"vocabulary": VOCABULARY, "max_length": MAX_LENGTH, "doc_stride": DOC_STRIDE, "cases": cases}
    out = GOLDENS / "answering.json"
    out.write_text(json.dumps(golden, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
    print(f"{out}: {len(cases)} questions, {out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
