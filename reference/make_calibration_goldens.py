"""Makes crates/distilbert/tests/goldens/calibration.json: likelihoods and fitted temperatures.

    pip install scikit-learn==1.9.1 scipy==1.17.1 numpy==2.4.6
    python reference/make_calibration_goldens.py

Likelihoods are scikit-learn's log_loss; temperatures minimise them by scipy.
"""

import json
import pathlib
from collections.abc import Callable

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit, softmax
from sklearn.metrics import log_loss

SEED = 20251126
OUT = pathlib.Path(__file__).resolve().parent.parent / "crates/distilbert/tests/goldens/calibration.json"


def one_class(logits: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    return log_loss(labels, softmax(logits / temperature, axis=1), labels=range(logits.shape[1]))


def sets(logits: np.ndarray, labels: np.ndarray, temperature: float) -> float:
    columns = zip(labels.T, expit(logits / temperature).T, strict=True)
    return sum(log_loss(truth, probabilities, labels=[0, 1]) for truth, probabilities in columns)


def case(
    loss: Callable[[np.ndarray, np.ndarray, float], float], logits: np.ndarray, labels: np.ndarray
) -> dict[str, object]:
    logits = np.asarray(logits, dtype=np.float32).astype(np.float64)
    fit = minimize_scalar(
        lambda x: loss(logits, labels, np.exp(x)), bounds=(-4.6, 4.6), method="bounded", options={"xatol": 1e-12}
    )
    temperature = float(np.exp(fit.x))
    expected = {
        "nll_before": loss(logits, labels, 1.0),
        "temperature": temperature,
        "nll_after": loss(logits, labels, temperature),
    }
    return {"logits": logits.round(9).tolist(), "labels": labels.tolist(), "expected": expected}


random = np.random.default_rng(SEED)
cases = []
for scale in [0.3, 4.0]:  # too unsure, too sure
    truth = random.integers(0, 3, 40)
    signal = np.eye(3)[truth] + random.normal(size=(40, 3))
    cases.append(case(one_class, scale * signal, truth))
truth = random.integers(0, 2, (30, 4))
cases.append(case(sets, 3.0 * (2 * truth - 1 + 1.5 * random.normal(size=(30, 4))), truth))
OUT.write_text(json.dumps(cases) + "\n")
