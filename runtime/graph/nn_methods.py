"""Builder methods for neural networks: activations, losses, convolution, pooling, normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runtime._ext.errors import InvalidArgument
from runtime.dtypes import DataType
from runtime.graph.array_methods import ArrayMethods
from runtime.graph.math_methods import MathMethods
from runtime.graph.tensor import Tensor
from runtime.ops.shapes import format_shape

__all__ = ["NeuralMethods"]


class NeuralMethods(ArrayMethods, MathMethods):
    """Mixin of `runtime.graph.builder.Graph`."""

    def relu(self, x: Any, name: str = "Relu") -> Tensor:
        """Return ``max(x, 0)``."""
        return self._one("Relu", x, name=name)

    def relu6(self, x: Any, name: str = "Relu6") -> Tensor:
        """Return ``min(max(x, 0), 6)``."""
        return self._one("Relu6", x, name=name)

    def leaky_relu(self, x: Any, alpha: float = 0.2, name: str = "LeakyRelu") -> Tensor:
        """Return `x` where positive, ``alpha * x`` elsewhere."""
        return self._one("LeakyRelu", x, alpha=alpha, name=name)

    def elu(self, x: Any, name: str = "Elu") -> Tensor:
        """Return `x` where positive, ``exp(x) - 1`` elsewhere."""
        return self._one("Elu", x, name=name)

    def selu(self, x: Any, name: str = "Selu") -> Tensor:
        """Return the scaled exponential linear unit."""
        return self._one("Selu", x, name=name)

    def softplus(self, x: Any, name: str = "Softplus") -> Tensor:
        """Return ``log(exp(x) + 1)``."""
        return self._one("Softplus", x, name=name)

    def softsign(self, x: Any, name: str = "Softsign") -> Tensor:
        """Return ``x / (abs(x) + 1)``."""
        return self._one("Softsign", x, name=name)

    def gelu(self, x: Any, name: str = "Gelu") -> Tensor:
        """Return ``x * P(X <= x)`` for a standard normal X, by the error function."""
        with self.name_scope(name):
            tensor = self.convert(x, name="features")
            half = self.multiply(tensor, 0.5)
            return self.multiply(half, self.add(self.erf(self.multiply(tensor, 0.7071067811865476)), 1.0))

    def softmax(self, x: Any, axis: int = -1, name: str = "Softmax") -> Tensor:
        """Return exponentials that sum to 1 along a dimension."""
        return self._along_last("Softmax", x, axis, name)

    def log_softmax(self, x: Any, axis: int = -1, name: str = "LogSoftmax") -> Tensor:
        """Return logarithms of `softmax`."""
        return self._along_last("LogSoftmax", x, axis, name)

    def _along_last(self, op_type: str, x: Any, axis: int, name: str) -> Tensor:
        tensor = self.convert(x)
        if axis == -1 or (tensor.rank is not None and axis == tensor.rank - 1):
            return self._one(op_type, tensor, name=name)
        if tensor.rank is None:
            raise InvalidArgument(f"{op_type} of '{tensor.name}' along axis {axis}: the rank must be known statically")
        order = list(range(tensor.rank))
        order[axis], order[-1] = order[-1], order[axis]
        with self.name_scope(name):
            return self.transpose(self._one(op_type, self.transpose(tensor, order)), order)

    def softmax_cross_entropy(self, labels: Any, logits: Any, name: str = "softmax_cross_entropy_with_logits"
                              ) -> Tensor:
        """Return the cross entropy between distributions and the softmax of logits, per row.

        Parameters
        ----------
        labels, logits : (..., classes)

        Returns
        -------
        Tensor
            Shape ``(...)``.
        """
        with self.name_scope(name) as scope:
            scores = self.convert(logits, name="logits")
            targets = self.convert(labels, scores.dtype, name="labels")
            if scores.rank == 2:
                return self._losses("SoftmaxCrossEntropyWithLogits", scores, targets, scope)
            shape = self.shape(scores)
            flat = self.stack([-1, shape[-1]])
            losses = self._losses("SoftmaxCrossEntropyWithLogits", self.reshape(scores, flat),
                                  self.reshape(targets, flat), "flat")
            return self._restored(losses, scores, shape)

    def sparse_softmax_cross_entropy(self, labels: Any, logits: Any, name: str = "SparseSoftmaxCrossEntropyWithLogits"
                                     ) -> Tensor:
        """Return the cross entropy between class numbers and the softmax of logits, per row.

        Parameters
        ----------
        labels : (...)
            int32 or int64, in ``[0, classes)``.
        logits : (..., classes)
        """
        with self.name_scope(name) as scope:
            scores = self.convert(logits, name="logits")
            targets = self.convert(labels, name="labels")
            if scores.rank == 2:
                return self._losses("SparseSoftmaxCrossEntropyWithLogits", scores, targets, scope)
            shape = self.shape(scores)
            losses = self._losses("SparseSoftmaxCrossEntropyWithLogits",
                                  self.reshape(scores, self.stack([-1, shape[-1]])), self.reshape(targets, [-1]),
                                  "flat")
            return self._restored(losses, scores, shape)

    def _losses(self, op_type: str, scores: Tensor, targets: Tensor, name: str) -> Tensor:
        losses: Tensor = self.op(op_type, scores, targets, name=name)[0]
        return losses

    def _restored(self, losses: Tensor, scores: Tensor, shape: Tensor) -> Tensor:
        result = self.reshape(losses, shape[:-1])
        if scores.shape is not None:
            result.set_shape(scores.shape[:-1])
        return result

    def sigmoid_cross_entropy(self, labels: Any, logits: Any, name: str = "logistic_loss") -> Tensor:
        """Return ``-labels * log(p) - (1 - labels) * log(1 - p)`` for p the sigmoid of logits, without overflow."""
        with self.name_scope(name):
            scores = self.convert(logits, name="logits")
            targets = self.convert(labels, scores.dtype, name="labels")
            zeros = self.zeros_like(scores)
            is_positive = self.greater_equal(scores, zeros)
            positive = self.where(is_positive, scores, zeros)
            negative_abs = self.where(is_positive, self.negative(scores), scores)
            return self.add(self.subtract(positive, self.multiply(scores, targets)),
                            self.log1p(self.exp(negative_abs)))

    def l2_loss(self, x: Any, name: str = "L2Loss") -> Tensor:
        """Return half the sum of squares."""
        return self._one("L2Loss", x, name=name)

    def bias_add(self, x: Any, bias: Any, data_format: str = "NHWC", name: str = "BiasAdd") -> Tensor:
        """Add a vector along the channels: the last dimension, or dimension 1 for ``NCHW``."""
        return self._one("BiasAdd", x, bias, data_format=data_format, name=name)

    def conv2d(self, x: Any, filters: Any, strides: int | Sequence[int] = 1, padding: Any = "SAME",
               data_format: str = "NHWC", dilations: int | Sequence[int] = 1, name: str = "Conv2D") -> Tensor:
        """Return a two-dimensional convolution.

        Parameters
        ----------
        x : (batch, height, width, channels)
            Or as `data_format` says.
        filters : (height, width, in channels, out channels)
        strides, dilations : int or sequence of int
            For both directions, for each, or for all four dimensions.
        padding : str or sequence
            ``SAME``, ``VALID``, or (before, after) for height and width.
        """
        explicit: list[int] = []
        if not isinstance(padding, str):
            pairs = [[0, 0], *padding, [0, 0]] if data_format == "NHWC" else [[0, 0], [0, 0], *padding]
            explicit = [int(side) for pair in pairs for side in pair]
            padding = "EXPLICIT"
        steps = _four(dilations, data_format, "dilations")
        return self._one("Conv2D", x, filters, strides=_four(strides, data_format, "strides"), padding=padding,
                         explicit_paddings=explicit, data_format=data_format, dilations=steps, name=name)

    def max_pool(self, x: Any, size: int | Sequence[int], strides: int | Sequence[int], padding: str = "VALID",
                 data_format: str = "NHWC", name: str = "MaxPool") -> Tensor:
        """Return the maxima of windows."""
        return self._one("MaxPool", x, ksize=_four(size, data_format, "size"),
                         strides=_four(strides, data_format, "strides"), padding=padding, data_format=data_format,
                         name=name)

    def avg_pool(self, x: Any, size: int | Sequence[int], strides: int | Sequence[int], padding: str = "VALID",
                 data_format: str = "NHWC", name: str = "AvgPool") -> Tensor:
        """Return the means of windows, padding left out."""
        return self._one("AvgPool", x, ksize=_four(size, data_format, "size"),
                         strides=_four(strides, data_format, "strides"), padding=padding, data_format=data_format,
                         name=name)

    def batch_norm(self, x: Any, scale: Any, offset: Any, mean: Any = (), variance: Any = (), epsilon: float = 0.001,
                   is_training: bool = True, data_format: str = "NHWC", name: str = "FusedBatchNormV3"
                   ) -> tuple[Tensor, Tensor, Tensor]:
        """Normalise channels over the batch (training), or by given means and variances.

        Parameters
        ----------
        x : (batch, height, width, channels)
        scale, offset, mean, variance : (channels,)
            `mean` and `variance` are empty for training.

        Returns
        -------
        y, batch_mean, batch_variance : Tensor
            The variance is unbiased.
        """
        given = [self.convert(part, DataType.FLOAT, label) if isinstance(part, (tuple, list)) else part
                 for part, label in ((mean, "mean"), (variance, "variance"))]
        outputs = self.op("FusedBatchNormV3", x, scale, offset, *given, epsilon=epsilon, is_training=is_training,
                          data_format=data_format, name=name)
        return outputs[0], outputs[1], outputs[2]

    def moments(self, x: Any, axis: Any, keepdims: bool = False, name: str = "moments") -> tuple[Tensor, Tensor]:
        """Return means and (biased) variances along dimensions."""
        with self.name_scope(name):
            tensor = self.convert(x)
            mean = self.reduce_mean(tensor, axis, keepdims=True, name="mean")
            deviation = self.squared_difference(tensor, self.stop_gradient(mean))
            variance = self.reduce_mean(deviation, axis, keepdims=True, name="variance")
            if keepdims:
                return mean, variance
            axes = [axis] if isinstance(axis, int) else list(axis)
            return self.squeeze(mean, axes), self.squeeze(variance, axes)

    def l2_normalize(self, x: Any, axis: Any = -1, epsilon: float = 1e-12, name: str = "l2_normalize") -> Tensor:
        """Return `x` divided by its norm along dimensions."""
        with self.name_scope(name):
            tensor = self.convert(x)
            norms = self.reduce_sum(self.square(tensor), axis, keepdims=True)
            return self.multiply(tensor, self.rsqrt(self.maximum(norms, epsilon)))

    def dropout(self, x: Any, rate: Any, seed: int | None = None, name: str = "dropout") -> Tensor:
        """Set elements to 0 with a probability, and scale the rest so that the expectation stays.

        Parameters
        ----------
        rate : float or scalar Tensor
            Probability of 0, in ``[0, 1)``.
        """
        if isinstance(rate, (int, float)) and not 0 <= rate < 1:
            raise InvalidArgument(f"dropout '{name}': rate must be in [0, 1), got {rate}")
        with self.name_scope(name):
            tensor = self.convert(x)
            drop = self.convert(rate, tensor.dtype, "rate")
            scaled = self.multiply(tensor, self.divide(1.0, self.subtract(1.0, drop)))
            shape: Any = self.shape(tensor) if tensor.shape is None or None in tensor.shape else tensor.shape
            draw = self.random_uniform(shape, dtype=tensor.dtype, seed=seed)
            keep = self.cast(self.greater_equal(draw, drop), tensor.dtype)
            return self.multiply(scaled, keep)

    def in_top_k(self, targets: Any, predictions: Any, k: Any, name: str = "in_top_k") -> Tensor:
        """Return bools: whether the target of a row is among its `k` best predictions (float32)."""
        with self.name_scope(name) as scope:
            numbers = self.convert(targets, name="targets")
            return self._one("InTopKV2", predictions, numbers, self.convert(k, numbers.dtype, "k"), name=scope)


def _four(value: int | Sequence[int], data_format: str, what: str) -> list[int]:
    """Return a size for each of four dimensions."""
    sizes = [value, value] if isinstance(value, int) else list(value)
    if len(sizes) == 1:
        sizes = [sizes[0], sizes[0]]
    if len(sizes) == 2:
        sizes = [1, 1, *sizes] if data_format == "NCHW" else [1, *sizes, 1]
    if len(sizes) != 4:
        raise InvalidArgument(f"{what} must have 1, 2 or 4 entries, got {format_shape(tuple(sizes))}")
    return sizes
