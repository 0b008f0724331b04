"""Makes crates/distilbert/tests/goldens/metrics.json: metrics as scikit-learn and scipy compute them.

    pip install scikit-learn==1.9.1 scipy==1.17.1 numpy==2.4.6
    python reference/make_metric_goldens.py

Where these libraries give NaN (a correlation with a constant), the project defines 0; such values are written as 0.
"""

import json
import math
import pathlib
import warnings

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats
from sklearn import metrics

SEED = 20240607
OUT = pathlib.Path(__file__).resolve().parent.parent / "crates/distilbert/tests/goldens/metrics.json"
warnings.filterwarnings("ignore")


def defined(value: float) -> float:
    value = float(value)
    return 0.0 if math.isnan(value) else value


def classes(name: str, labels: int, truth: ArrayLike, predicted: ArrayLike) -> dict[str, object]:
    truth, predicted = np.asarray(truth), np.asarray(predicted)
    expected = {
        "accuracy": metrics.accuracy_score(truth, predicted),
        "macro_f1": metrics.f1_score(truth, predicted, average="macro", zero_division=0),
        "micro_f1": metrics.f1_score(truth, predicted, average="micro", zero_division=0),
        "matthews": metrics.matthews_corrcoef(truth, predicted),
    }
    if labels == 2:
        expected["f1"] = metrics.f1_score(truth, predicted, pos_label=1, labels=[0, 1], zero_division=0)
    return {
        "name": name,
        "labels": labels,
        "truth": truth.tolist(),
        "predicted": predicted.tolist(),
        "confusion": metrics.confusion_matrix(truth, predicted, labels=range(labels)).tolist(),
        "expected": {key: defined(value) for key, value in expected.items()},
    }


def multi_label(name: str, truth: ArrayLike, predicted: ArrayLike) -> dict[str, object]:
    truth, predicted = np.asarray(truth, dtype=int), np.asarray(predicted, dtype=int)
    expected = {
        "micro_f1": metrics.f1_score(truth, predicted, average="micro", zero_division=0),
        "macro_f1": metrics.f1_score(truth, predicted, average="macro", zero_division=0),
        "subset_accuracy": metrics.accuracy_score(truth, predicted),
    }
    return {
        "name": name,
        "truth": truth.tolist(),
        "predicted": predicted.tolist(),
        "expected": {key: defined(value) for key, value in expected.items()},
    }


def scores(name: str, truth: ArrayLike, predicted: ArrayLike) -> dict[str, object]:
    truth, predicted = np.asarray(truth, dtype=float), np.asarray(predicted, dtype=float)
    if len(truth) < 2:
        expected = {"pearson": 0.0, "spearman": 0.0}
    else:
        expected = {
            "pearson": stats.pearsonr(truth, predicted).statistic,
            "spearman": stats.spearmanr(truth, predicted).statistic,
        }
    return {
        "name": name,
        "truth": truth.tolist(),
        "predicted": predicted.tolist(),
        "expected": {key: defined(value) for key, value in expected.items()},
    }


def calibration(name: str, probabilities: np.ndarray, truth: ArrayLike, bins: int = 15) -> dict[str, object]:
    """Guo et al. 2017: bins ((m-1)/M, m/M] of the largest probability; weighted mean gap of accuracy and confidence."""
    probabilities, truth = np.asarray(probabilities, dtype=np.float32).astype(float), np.asarray(truth)
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    error = 0.0
    for index in range(bins):
        inside = (confidence > index / bins) & (confidence <= (index + 1) / bins)
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return {"name": name, "probabilities": probabilities.tolist(), "truth": truth.tolist(), "expected": float(error)}


def main() -> None:
    rng = np.random.default_rng(SEED)

    def noisy(truth: np.ndarray, k: int, share: float) -> np.ndarray:
        return np.where(rng.random(len(truth)) < share, rng.integers(0, k, len(truth)), truth)

    binary, three, rare = rng.integers(0, 2, 60), rng.integers(0, 3, 60), (rng.random(60) < 0.05).astype(int)
    seven = rng.integers(0, 7, 60)
    many = rng.random((40, 5)) < 0.4
    x = rng.normal(size=50)
    grades = rng.integers(0, 6, 50).astype(float)
    soft = rng.dirichlet([0.6, 0.6, 0.6], 80)
    golden = {
        "made_by": "reference/make_metric_goldens.py",
        "versions": {"scikit-learn": "1.9.1", "scipy": "1.17.1", "numpy": "2.4.6"},
        "seed": SEED,
        "classes": [
            classes("random binary", 2, binary, noisy(binary, 2, 0.4)),
            classes("rare positive class", 2, rare, noisy(rare, 2, 0.3)),
            classes("three classes", 3, three, noisy(three, 3, 0.5)),
            classes("seven classes, some never right", 7, seven, noisy(seven % 4, 7, 0.5)),
            classes("a class in neither", 4, three, noisy(three, 3, 0.5)),
            classes("only class 0 in truth and prediction", 2, [0] * 9, [0] * 9),
            classes("only class 1 in truth and prediction", 2, [1] * 9, [1] * 9),
            classes("constant prediction of 0", 2, binary, [0] * 60),
            classes("constant prediction of 1", 2, binary, [1] * 60),
            classes("constant truth", 3, [2] * 12, rng.integers(0, 3, 12)),
            classes("all wrong", 2, binary, 1 - binary),
            classes("all right", 3, three, three),
            classes("one example, right", 2, [1], [1]),
            classes("one example, wrong", 2, [1], [0]),
        ],
        "multi_label": [
            multi_label("random", many, many ^ (rng.random((40, 5)) < 0.2)),
            multi_label("a label in neither", many & [1, 1, 0, 1, 1], many & [1, 1, 0, 1, 0]),
            multi_label("nothing applies, nothing predicted", np.zeros((6, 3)), np.zeros((6, 3))),
            multi_label("everything predicted", many, np.ones((40, 5))),
            multi_label("one example", [[1, 0, 1]], [[1, 1, 0]]),
        ],
        "scores": [
            scores("random", x, x + rng.normal(size=50)),
            scores("ties on one side", grades, grades + rng.normal(size=50)),
            scores("ties on both sides", grades, np.round(grades / 2 + rng.normal(size=50))),
            scores("monotone, not linear", x, np.exp(3 * x)),
            scores("reversed", x, -2 * x),
            scores("large offset, small spread", 1e6 + x * 1e-3, x + rng.normal(size=50)),
            scores("constant prediction", x, [0.1] * 50),
            scores("constant truth", [3.3] * 50, x),
            scores("both constant", [0.1] * 7, [0.7] * 7),
            scores("two examples", [1, 2], [5, 3]),
            scores("one example", [1], [5]),
        ],
        "mcnemar": [
            {
                "only_first": b,
                "only_second": c,
                "expected": stats.binomtest(min(b, c), b + c, 0.5).pvalue if b + c else 1.0,
            }
            for b, c in [(0, 0), (0, 1), (1, 1), (3, 9), (9, 3), (0, 20), (50, 31), (600, 500), (5000, 5200)]
        ],
        "calibration": [
            calibration("random", soft, [rng.choice(3, p=row) for row in soft]),
            calibration("always certain", np.eye(3)[three[:20]], (three[:20] + 1) % 3),
            calibration("always undecided", np.full((10, 2), 0.5), binary[:10]),
        ],
    }
    text = json.dumps(golden, separators=(",", ":"))
    for key in ("classes", "multi_label", "scores", "mcnemar", "calibration"):
        text = text.replace(f'"{key}":[{{', f'\n"{key}":[\n{{')
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(text.replace('},{"', '},\n{"') + "\n")


if __name__ == "__main__":
    main()
