"""Makes crates/distilbert/tests/goldens/tokenizers: tiny WordPiece, byte-level BPE and unigram tokenizers of the text
below, and what Python's transformers makes of sample texts with them.

A folder is what `save_pretrained` writes, and `expected.json`: for each text or pair its ids, token types, offsets in
characters and the decoded text.
"""

import argparse
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import transformers as hf
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

TEXT = [
    "The small boat went out at dawn, and the old man didn't look back.",
    "It's raining; they've taken 12 umbrellas, 3 coats and 1,024 biscuits!",
    "Der Müller fährt über die Brücke, während die Köchin Käse schneidet.",
    "L'été dernier, nous avons dîné près d'un café où l'on chantait.",
    "東京の空は青い。今日は天気がいいですね。",
    "Маленькая лодка вышла на рассвете, и старик не оглянулся.",
    "القارب الصغير خرج عند الفجر",
    "We unpacked, repacked and packed again: boats, boating, boatmen.",
    "It was the best cake 🍰 of the party 🎉, wasn't it?",
]

SAMPLES = [
    "The small boat didn't look back.",
    "",
    " ",
    "  two  spaces   and a tab\tand a\nline feed \n ",
    "Müller's café — près d'un été",
    "Mu\u0308ller cafe\u0301",
    "東京の空は青い boats。",
    "emoji 🍰 and 👩‍👩‍👧‍👦 and 🎉🎉",
    "лодка القارب ไทย",
    "ﬁne ½ Ⅳ １２ ﷺ",
    "1,024 biscuits, 3.14 and 12,",
    "``quoted'' and \"quoted\"",
    "zero\u200bwidth, non\u00a0breaking, \u0000 control \ufffd",
    "a {mask} in the text{mask}, and {cls} too {sep}",
    "UPPER Lower ÄÖÜ ŻÓŁW",
    "unbelievablyunknownwordwithoutanyhope",
]
PAIRS = [
    ("The small boat", "went out at dawn"),
    ("", "only the second"),
    ("the old man and the old man and the old man", "didn't look back"),
    ("東京", " café 🍰"),
]
MAX_LENGTHS = [None, 9, 4]


def merged(splitter: Any, special: list[str]) -> dict[str, Any]:
    """A trained byte-level BPE as tokenizer.json has it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = splitter
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT * 3, trainer)
    return json.loads(tokenizer.to_str())["model"]


def unigram(special: list[str], lower: bool) -> list[tuple[str, float]]:
    """Special tokens, then all characters and the substrings that cover most of the text, by falling score.

    The score of a piece is the logarithm of its share among all counted pieces. (The trainer of the tokenizers library
    gives another vocabulary in each run.)
    """
    words = [f"▁{word}" for line in TEXT for word in (line.lower() if lower else line).split()]
    counts = Counter(w[i:j] for w in words for i in range(len(w)) for j in range(i + 1, min(i + 6, len(w)) + 1))
    characters = {piece for piece in counts if len(piece) == 1}
    longer = sorted((p for p in counts if len(p) > 1 and counts[p] > 1), key=lambda p: (-counts[p] * len(p), p))
    pieces = characters | set(longer[:90])
    total = sum(counts[piece] for piece in pieces)
    scored = sorted((-round(math.log(counts[piece] / total), 3), piece) for piece in pieces)
    return [(token, 0.0) for token in special] + [(piece, -score) for score, piece in scored]


def word_piece(make: type[hf.PreTrainedTokenizerBase], lower: bool) -> hf.PreTrainedTokenizerBase:
    """Special tokens, all characters, on their own and as continuations, and the pieces that cover most of the text."""
    pieces = [piece for piece, _ in unigram([], lower)]
    first = sorted({piece.removeprefix("▁") for piece in pieces} - {""})
    later = sorted(f"##{piece}" for piece in pieces if "▁" not in piece)
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *first, *later]
    return make(vocab={token: index for index, token in enumerate(names)}, do_lower_case=lower)


def roberta(prefix_space: bool) -> hf.PreTrainedTokenizerBase:
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    model = merged(pre_tokenizers.ByteLevel(add_prefix_space=False), [*special, "<mask>"])
    # As published, the mask is the last token.
    names = [*special, *(token for token in model["vocab"] if token not in [*special, "<mask>"]), "<mask>"]
    vocab = {token: index for index, token in enumerate(names)}
    merges = [tuple(pair) for pair in model["merges"]]
    mask = hf.AddedToken("<mask>", lstrip=True, special=True)
    return hf.RobertaTokenizer(vocab=vocab, merges=merges, add_prefix_space=prefix_space, mask_token=mask)


def xlm_roberta() -> hf.PreTrainedTokenizerBase:
    vocab = [*unigram(["<s>", "<pad>", "</s>", "<unk>"], lower=False), ("<mask>", 0.0)]
    mask = hf.AddedToken("<mask>", lstrip=True, special=True)
    return hf.XLMRobertaTokenizer(vocab=vocab, mask_token=mask)


def albert() -> hf.PreTrainedTokenizerBase:
    mask = hf.AddedToken("[MASK]", lstrip=True, special=True)
    return hf.AlbertTokenizer(
        vocab=unigram(["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"], lower=True), mask_token=mask
    )


def expected(tokenizer: hf.PreTrainedTokenizerBase) -> list[dict[str, Any]]:
    names = {"mask": tokenizer.mask_token, "cls": tokenizer.cls_token, "sep": tokenizer.sep_token}
    cases = [(text.format_map(names) if "{mask}" in text else text, None, None) for text in SAMPLES]
    cases += [(*pair, length) for pair in PAIRS for length in MAX_LENGTHS]
    found = []
    for text, pair, max_length in cases:
        options = {"truncation": "longest_first", "max_length": max_length} if max_length else {}
        encoding = tokenizer(text, pair, return_offsets_mapping=True, return_token_type_ids=True, **options)
        found.append(
            {
                "text": text,
                "pair": pair,
                "max_length": max_length,
                "input_ids": encoding["input_ids"],
                "token_type_ids": encoding["token_type_ids"],
                "offsets": encoding["offset_mapping"],
                "decoded": tokenizer.backend_tokenizer.decode(encoding["input_ids"], skip_special_tokens=True),
            }
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to write to")
    arguments = parser.parse_args()
    makers = {
        "bert": lambda: word_piece(hf.BertTokenizer, lower=True),
        "distilbert-multilingual-cased": lambda: word_piece(hf.DistilBertTokenizer, lower=False),
        "roberta": lambda: roberta(prefix_space=False),
        "roberta-prefix-space": lambda: roberta(prefix_space=True),
        "xlm-roberta": xlm_roberta,
        "albert": albert,
    }
    for name, make in makers.items():
        folder = arguments.out / name
        make().save_pretrained(folder)
        cases = expected(hf.AutoTokenizer.from_pretrained(folder))
        lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
        (folder / "expected.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
        print(f"{name}: {len(cases)} cases")


if __name__ == "__main__":
    main()
