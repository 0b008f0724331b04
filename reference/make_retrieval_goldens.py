"""Makes crates/distilbert/tests/goldens/retrieval.json: rankings with judgements, and what trec_eval says of them.

    pip install pytrec_eval-terrier==0.5.11
    python reference/make_retrieval_goldens.py

Scores are multiples of 1/16, exact in float32. Half of the cases are full of ties, which trec_eval breaks by the id
that is larger in byte order. MRR@10 is its reciprocal rank of the ten best documents.
"""

import json
import pathlib
import random

import pytrec_eval

OUT = pathlib.Path(__file__).resolve().parent.parent / "crates/distilbert/tests/goldens/retrieval.json"
MEASURES = {"ndcg_cut.10", "recall.100", "map"}


def expected(judgements: dict[str, int], scores: dict[str, float]) -> list[float]:
    ranked = sorted(scores, key=lambda document: (scores[document], document.encode()), reverse=True)
    whole = pytrec_eval.RelevanceEvaluator({"q": judgements}, MEASURES).evaluate({"q": scores})["q"]
    ten = {document: scores[document] for document in ranked[:10]}
    first = pytrec_eval.RelevanceEvaluator({"q": judgements}, {"recip_rank"}).evaluate({"q": ten})["q"]
    return [whole["ndcg_cut_10"], whole["recall_100"], first["recip_rank"], whole["map"]]


def main() -> None:
    rng = random.Random(20240607)
    cases = []
    for number in range(24):
        documents = [f"d{rng.randrange(10 ** rng.randrange(1, 5))}" for _ in range(rng.choice([3, 12, 60, 150]))]
        documents = sorted(set(documents))
        steps = 3 if number % 2 else 1600
        scores = {document: rng.randrange(-steps, steps) / 16 for document in documents}
        judged = rng.sample(documents, max(1, len(documents) // rng.choice([2, 3, 8])))
        judgements = {document: rng.choice([-1, 0, 1, 1, 2, 3]) for document in judged}
        # Relevant documents that were not retrieved.
        judgements |= {f"x{index}": 1 for index in range(rng.choice([0, 0, 4]))}
        if max(judgements.values()) <= 0:
            judgements[judged[0]] = 2
        cases.append({"judgements": judgements, "scores": scores, "expected": expected(judgements, scores)})
    OUT.write_text(json.dumps(cases, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
