"""Makes crates/distilbert/tests/goldens/entities.json: spans and their scores as seqeval reads and computes them.

    pip install seqeval==1.2.2
    python reference/make_entity_goldens.py

Tags are drawn at random, well-formed and not: every scheme's letters mixed, types changing within a span, spans that
begin with I or E, types with hyphens, bare letters, letters and words that mean nothing.
"""

import json
import pathlib
import random
import warnings

from seqeval.metrics import accuracy_score, classification_report, f1_score, precision_score, recall_score
from seqeval.metrics.sequence_labeling import get_entities

SEED = 20240607
OUT = pathlib.Path(__file__).resolve().parent.parent / "crates/distilbert/tests/goldens/entities.json"
warnings.filterwarnings("ignore")

ALPHABETS = {
    "BIO": ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"],
    "IOB1": ["O", "I-PER", "I-PER", "B-PER", "I-LOC"],
    "BIOES": ["O", "B-PER", "I-PER", "E-PER", "S-PER", "B-LOC", "I-LOC", "E-LOC", "S-LOC"],
    "no O": ["B-A", "I-A", "E-A", "S-A", "I-B"],
    "types with hyphens and none": ["O", "B-a-b", "I-a-b", "I-a", "B", "I", "E", "S", "B-", "I-", "BPER", "I--x"],
    "meaningless": ["O", "X", "X-A", ".", ".-A", "L-A", "U-A", "NN", "o", "-", "B-A", "I-A", "é-A"],
}


def case(name: str, truth: list[list[str]], predicted: list[list[str]]) -> dict:
    types = {}
    if any(get_entities(truth)) or any(get_entities(predicted)):
        report = classification_report(truth, predicted, output_dict=True, zero_division=0)
        types = {
            kind: [scores["precision"], scores["recall"], scores["f1-score"], scores["support"]]
            for kind, scores in report.items()
            if kind not in ("micro avg", "macro avg", "weighted avg")
        }
    return {
        "name": name,
        "truth": truth,
        "predicted": predicted,
        "entities": [list(entity) for entity in get_entities(predicted)],
        "expected": {
            "entity_f1": f1_score(truth, predicted, zero_division=0),
            "entity_precision": precision_score(truth, predicted, zero_division=0),
            "entity_recall": recall_score(truth, predicted, zero_division=0),
            "token_accuracy": accuracy_score(truth, predicted),
        },
        "types": types,
    }


def plain(value: object) -> object:
    """NumPy's numbers as Python's."""
    return value.item() if hasattr(value, "item") else str(value)


def main() -> None:
    rng = random.Random(SEED)
    cases = []
    for name, alphabet in ALPHABETS.items():
        for share in (0.1, 0.5, 1.0):
            truth = [[rng.choice(alphabet) for _ in range(rng.randint(1, 9))] for _ in range(8)]
            predicted = [[rng.choice(alphabet) if rng.random() < share else tag for tag in row] for row in truth]
            cases.append(case(f"{name}, {share:.0%} drawn again", truth, predicted))
    cases += [
        case("nothing true, nothing predicted", [["O", "O"]], [["O", "O"]]),
        case("nothing true", [["O", "O"]], [["B-A", "O"]]),
        case("nothing predicted", [["B-A", "I-A"]], [["O", "O"]]),
        case("right type, wrong end", [["B-A", "I-A", "O"]], [["B-A", "I-A", "I-A"]]),
        case("right words, wrong type", [["B-A", "I-A", "O"]], [["B-B", "I-B", "O"]]),
        case("one span or two", [["B-A", "I-A"]], [["B-A", "B-A"]]),
        case("a span at the end of one sentence and the start of the next", [["B-A"], ["I-A"]], [["B-A"], ["B-A"]]),
        case(
            "a sentence that begins with a word that means nothing",
            [["X"], ["X", "B-A"]],
            [["X", "I-A"][:1], ["X-A", "I-A"]],
        ),
    ]
    golden = {"made_by": "reference/make_entity_goldens.py", "versions": {"seqeval": "1.2.2"}, "seed": SEED}
    lines = [json.dumps(case, ensure_ascii=False, default=plain) for case in cases]
    text = json.dumps(golden)[:-1] + ', "cases": [\n' + ",\n".join(lines) + "\n]}\n"
    OUT.write_text(text, encoding="utf-8")
    print(f"{OUT}: {len(cases)} cases")


if __name__ == "__main__":
    main()
