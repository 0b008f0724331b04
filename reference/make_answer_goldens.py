"""Makes crates/distilbert/tests/goldens/answers.json: answers as the official metrics score them, and the best
no-answer thresholds.

    pip install transformers==4.57.3 && pip download --no-deps lm-eval==0.4.13
    python reference/make_answer_goldens.py lm_eval-0.4.13-py3-none-any.whl

SQuAD 2.0: `transformers.data.metrics.squad_metrics`. MLQA: `lm_eval/tasks/mlqa/utils.py`, a copy of the official script
but for Arabic, whose pattern is put back here. SQuAD 1.1: MLQA's formulae, which it took from there, on SQuAD's words.
"""

import argparse
import json
import pathlib
import random
import sys
import types
import zipfile
from collections.abc import Callable

from transformers.data.metrics import squad_metrics
from transformers.data.processors.squad import SquadExample

SEED = 20240613
OUT = pathlib.Path(__file__).resolve().parent.parent / "crates/distilbert/tests/goldens/answers.json"
LANGUAGES = ["en", "es", "hi", "vi", "de", "ar", "zh"]

# What the rules look at: articles of every language, word ends, punctuation of all kinds, white space of all kinds.
WORDS = {
    "en": ["a", "An", "THE", "anthem", "the_", "cat", "Cat", "U.S.", "2008", "İstanbul", "ΟΔΟΣ", "ﬁsh", "x²", "Ⅷ"],
    "es": ["el", "La", "unos", "niño", "años", "una", "del"],
    "hi": ["यह", "दिल्ली", "में", "का", "the", "२००८"],
    "vi": ["của", "là", "cái", "những", "mèo", "cu\u0309a", "Hà"],
    "de": ["Der", "die", "das", "einer", "Straße", "König", "dem"],
    "ar": ["ال", "الشمال", "شمال", "و", "المال", "١٢"],
    "zh": ["北京", "在2008年", "the", "漢字", "龥龦", "中a国"],
}
GLUE = [
    " ",
    "  ",
    "\t",
    "\u00a0",
    "\u3000",
    "\x1c",
    "",
    "-",
    ".",
    "_",
    "$",
    "+",
    "“",
    "。",
    "¿",
    "\u0301",
    "\u200b",
    "٪",
]


def load_mlqa(wheel: pathlib.Path) -> types.ModuleType:
    source = zipfile.ZipFile(wheel).read("lm_eval/tasks/mlqa/utils.py").decode()
    wrong, official = r'r"(?:^|\s)ال"', r'"\\sال^|ال"'
    assert wrong in source
    sys.modules["datasets"] = types.SimpleNamespace(Dataset=None)  # imported for a type only
    module = types.ModuleType("mlqa")
    exec(source.replace(wrong, official), module.__dict__)
    return module


def text(rng: random.Random, languages: list[str], longest: int) -> str:
    parts = []
    for _ in range(rng.randint(0, longest)):
        parts += [rng.choice(WORDS[rng.choice(languages)]), rng.choice(GLUE)]
    return "".join(parts)


def best(measure: Callable[..., float], prediction: str, golds: list[str], *more: str) -> float:
    return float(max(measure(prediction, gold, *more) for gold in golds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("wheel", type=pathlib.Path)
    mlqa = load_mlqa(parser.parse_args().wheel)
    rng = random.Random(SEED)
    squad_words = squad_metrics.normalize_answer
    mlqa_words = mlqa.normalize_answer
    cases = []
    for index in range(280):
        rules = ["squad-1.1", "squad-2.0", *LANGUAGES][index % 9]
        languages = [rules, rules, "en"] if rules in LANGUAGES else ["en", "en", "en", rng.choice(LANGUAGES)]
        golds = [text(rng, languages, 4) for _ in range(rng.randint(1, 3))]
        prediction = rng.choice(
            [
                text(rng, languages, 4),
                rng.choice(golds),
                rng.choice(golds).upper() + " the",
                rng.choice(golds) + " cat x",
            ]
        )
        if rules == "squad-2.0":
            kept = [gold for gold in golds if squad_words(gold)] or [""]
            exact = best(squad_metrics.compute_exact, prediction, kept)
            f1 = best(squad_metrics.compute_f1, prediction, kept)
            # Both take the gold answer first, which changes nothing.
            words = squad_words(prediction)
        else:
            if rules == "squad-1.1":
                mlqa.normalize_answer = lambda answer, language: squad_words(answer)
            else:
                mlqa.normalize_answer = mlqa_words
            exact = best(mlqa.exact_match_score, prediction, golds, rules)
            f1 = best(mlqa.f1_score, prediction, golds, rules)
            words = mlqa.normalize_answer(prediction, rules)
        cases.append(
            {"rules": rules, "prediction": prediction, "golds": golds, "words": words.split(), "exact": exact, "f1": f1}
        )

    sets = []
    for size in [1, 7, 24, 40]:
        examples, predictions, odds, rows = [], {}, {}, []
        for index in range(size):
            impossible = rng.random() < 0.5
            golds = [] if impossible else [text(rng, ["en"], 3) + "x" for _ in range(2)]
            prediction = rng.choice([text(rng, ["en"], 3), *(golds or ["cat"]), *(gold + " cat" for gold in golds), ""])
            # Few values, so that some are equal.
            null_odds = rng.randint(-8, 8) / 4
            name = str(index)
            examples.append(
                SquadExample(
                    qas_id=name,
                    question_text="",
                    context_text="",
                    answer_text=None,
                    start_position_character=None,
                    title="",
                    answers=[{"text": gold} for gold in golds],
                    is_impossible=impossible,
                )
            )
            predictions[name], odds[name] = prediction, null_odds
            rows.append({"prediction": prediction, "golds": golds, "null_odds": null_odds})
        expected = squad_metrics.squad_evaluate(
            examples, predictions, no_answer_probs=odds, no_answer_probability_threshold=10
        )
        sets.append({"questions": rows, "expected": dict(expected)})

    golden = {"cases": cases, "sets": sets}
    OUT.write_text(json.dumps(golden, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
    print(f"{OUT}: {len(cases)} answers, {len(sets)} sets, {OUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
