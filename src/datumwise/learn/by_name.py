"""Deep kernel machines as learners by name, for proofs that retrain them many times: a third of the steps of the estimators."""

from __future__ import annotations

from typing import Any

from datumwise.learn.deep_kernel_machine import DeepKernelMachineClassifier, DeepKernelMachineRegressor

__all__ = ["classifier", "regressor"]

STEPS = 150


def regressor(random_state: Any = None) -> DeepKernelMachineRegressor:
    """``--learner deep-kernel-machine`` of numbers."""
    return DeepKernelMachineRegressor(max_iter=STEPS, random_state=random_state)


def classifier(random_state: Any = None) -> DeepKernelMachineClassifier:
    """``--learner deep-kernel-machine`` of classes."""
    return DeepKernelMachineClassifier(max_iter=STEPS, random_state=random_state)
