"""The 1,797 handwritten digits that ship inside scikit-learn, ready for training.

Each is an image of 8 x 8 pixels with values from 0 to 16, by 43 people (UCI "Optical Recognition of Handwritten
Digits").
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

NUM_PIXELS = 64
NUM_CLASSES = 10
TEST_PART = 0.2


@dataclass(frozen=True)
class Digits:
    """Images ``(n, 64)`` float32 in [0, 1] and labels ``(n,)`` int64, for training and for the test."""

    train_images: Array
    train_labels: Array
    test_images: Array
    test_labels: Array


def load(path: str | None = None, seed: int = 0) -> Digits:
    """Return the digits, split at random into four fifths for training and one for the test.

    Parameters
    ----------
    path : str, optional
        A ``.npz`` file with ``images`` (n, 64) and ``labels`` (n,), in place of scikit-learn.
    seed : int
        Decides the split.
    """
    if path is not None:
        with np.load(path) as file:
            images, labels = file["images"], file["labels"]
    else:
        images, labels = _from_sklearn()
    images = (images.reshape(len(images), NUM_PIXELS) / 16.0).astype(np.float32)
    labels = labels.astype(np.int64)
    order = np.random.default_rng(seed).permutation(len(images))
    count = round(len(images) * TEST_PART)
    test, train = order[:count], order[count:]
    return Digits(images[train], labels[train], images[test], labels[test])


def _from_sklearn() -> tuple[Array, Array]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        sys.exit(f"The digits come with scikit-learn, which is not here ({error}).\n"
                 "Install it with:  pip install 'tensor-runtime[examples]'")
    found = load_digits()
    return found.data, found.target


def batches(images: Array, labels: Array, size: int, rng: np.random.Generator) -> Iterator[tuple[Array, Array]]:
    """Yield full batches that together hold every example once, but for a rest, in random order."""
    order = rng.permutation(len(images))
    for start in range(0, len(order) - size + 1, size):
        chosen = order[start : start + size]
        yield images[chosen], labels[chosen]


def endless_batches(digits: Digits, size: int, seed: Sequence[int]) -> Iterator[tuple[Array, Array]]:
    """Yield batches of the training images for ever, epoch after epoch, the same ones for the same seed."""
    rng = np.random.default_rng(seed)
    while True:
        yield from batches(digits.train_images, digits.train_labels, size, rng)


def initial_weights(sizes: list[int], rng: np.random.Generator) -> list[tuple[Array, Array]]:
    """Return (kernel, bias) per layer: kernels drawn evenly from +-sqrt(6 / (in + out)), biases 0."""
    layers = []
    for width_in, width_out in zip(sizes, sizes[1:]):
        limit = np.sqrt(6.0 / (width_in + width_out))
        kernel = rng.uniform(-limit, limit, (width_in, width_out)).astype(np.float32)
        layers.append((kernel, np.zeros(width_out, np.float32)))
    return layers
