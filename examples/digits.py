"""Train a classifier of handwritten digits on a server, without TensorFlow.

    python examples/digits.py                               starts a server of its own
    python examples/digits.py --target grpc://HOST:PORT     uses one that runs, this project's or TensorFlow's

Shows progress, loss and accuracy while it runs, and leaves a picture of the curves in ``out/``. Ends with status 0 if
at least 95 % of the test images are recognised.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import digits_data
import numpy as np
from progress import Progress

import runtime
from runtime.errors import Error
from runtime.graph.optimizers import Adam

GOAL = 0.95
SERVER_START_S = 30.0
SERVER_STOP_S = 15.0


@dataclass
class History:
    """What training went through: per step, and per epoch."""

    losses: list[float] = field(default_factory=list)
    train_accuracies: list[float] = field(default_factory=list)
    test_accuracies: list[float] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def steps_per_second(self) -> float:
        return len(self.losses) / self.seconds if self.seconds else 0.0


class Model:
    """A network with one hidden layer, its loss and its training step, as a graph."""

    def __init__(self, hidden: int, learning_rate: float, seed: int) -> None:
        graph = self.graph = runtime.Graph(seed=seed)
        self.images = graph.placeholder("float32", [None, digits_data.NUM_PIXELS], name="images")
        self.labels = graph.placeholder("int64", [None], name="labels")
        layer = graph.dense(self.images, hidden, graph.relu, name="hidden")
        logits = graph.dense(layer, digits_data.NUM_CLASSES, name="logits")
        self.loss = graph.reduce_mean(graph.sparse_softmax_cross_entropy(self.labels, logits), name="loss")
        is_right = graph.equal(graph.argmax(logits, axis=1), self.labels)
        self.accuracy = graph.reduce_mean(graph.cast(is_right, "float32"), name="accuracy")
        self.train = Adam(learning_rate).minimize(self.loss)
        self.initialize = graph.global_variables_initializer()

    @property
    def num_parameters(self) -> int:
        return sum(int(np.prod(variable.shape or ())) for variable in self.graph.trainable_variables)


def train(session: runtime.Session, model: Model, digits: digits_data.Digits, options: argparse.Namespace,
          progress: Progress) -> History:
    """Train, showing progress after every step."""
    history = History()
    rng = np.random.default_rng(options.seed)
    session.run(model.initialize)
    started = time.perf_counter()
    with (
        session.make_callable([model.loss, model.accuracy, model.train], [model.images, model.labels]) as step,
        session.make_callable(model.accuracy, [model.images, model.labels]) as measure,
    ):
        for epoch in range(options.epochs):
            accuracies = []
            for images, labels in digits_data.batches(digits.train_images, digits.train_labels, options.batch, rng):
                loss, accuracy, _ = step(images, labels)
                history.losses.append(float(loss))
                accuracies.append(float(accuracy))
            history.seconds = time.perf_counter() - started
            history.train_accuracies.append(float(np.mean(accuracies)))
            history.test_accuracies.append(float(measure(digits.test_images, digits.test_labels)))
            progress.show(epoch + 1, f"loss {np.mean(history.losses[-len(accuracies):]):.4f}  "
                                     f"train {history.train_accuracies[-1]:.3f}  "
                                     f"test {history.test_accuracies[-1]:.3f}  "
                                     f"{history.steps_per_second:.0f} steps/s")
    progress.end()
    return history


def draw(history: History, path: Path) -> None:
    """Save a picture of loss and accuracy."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), dpi=120, layout="constrained")
    window = max(1, len(history.losses) // 100)
    smooth = np.convolve(history.losses, np.ones(window) / window, mode="valid")
    left.plot(history.losses, color="#9ecae1", linewidth=0.6, label="per step")
    left.plot(np.arange(window - 1, len(history.losses)), smooth, color="#08519c", linewidth=1.6, label="smoothed")
    left.set(yscale="log", xlabel="step", ylabel="cross entropy", title="Loss")
    epochs = np.arange(1, len(history.test_accuracies) + 1)
    right.plot(epochs, history.train_accuracies, color="#31a354", linewidth=1.6, label="training")
    right.plot(epochs, history.test_accuracies, color="#e6550d", linewidth=1.6, label="test")
    right.axhline(GOAL, color="#969696", linewidth=0.8, linestyle="--", label=f"goal {GOAL:.0%}")
    right.set(xlabel="epoch", ylabel="fraction recognised", title="Accuracy")
    right.set_ylim(min(0.8, *history.test_accuracies), 1.005)
    for axes in (left, right):
        axes.grid(True, color="#eeeeee")
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    pyplot.close(figure)


@contextlib.contextmanager
def own_server() -> Iterator[str]:
    """Start ``tensor-runtime serve`` as a child process, yield its target, and stop it at the end."""
    command = [sys.executable, "-m", "runtime.cli"]
    with tempfile.TemporaryDirectory(prefix="digits-") as folder, open(Path(folder) / "server.log", "w+") as log:
        process = subprocess.Popen([*command, "serve", "--listen", "127.0.0.1:0", "--data-dir", folder],
                                   stdout=subprocess.PIPE, stderr=log)
        try:
            yield _ready_target(process, Path(log.name))
        finally:
            process.terminate()
            try:
                process.wait(SERVER_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            assert process.stdout is not None
            process.stdout.close()


def _ready_target(process: subprocess.Popen[bytes], log: Path) -> str:
    assert process.stdout is not None
    deadline = time.monotonic() + SERVER_START_S
    text = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while b"\n" not in text:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                sys.exit(f"The server was not ready within {SERVER_START_S:.0f} s; its log:\n{log.read_text()}")
            chunk = os.read(process.stdout.fileno(), 4096)
            if not chunk:
                sys.exit(f"The server ended before it was ready; its log:\n{log.read_text()}")
            text += chunk
    return text.split()[1].decode()


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--target", help="server to train on, grpc://HOST:PORT; starts one when not given")
    parser.add_argument("--token", default=os.environ.get("TENSOR_RUNTIME_CLIENT_TOKEN"),
                        help="bearer token for the server (also TENSOR_RUNTIME_CLIENT_TOKEN)")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--batch", type=int, default=32, help="images per step")
    parser.add_argument("--hidden", type=int, default=128, help="width of the hidden layer")
    parser.add_argument("--learning-rate", type=float, default=0.002)
    parser.add_argument("--seed", type=int, default=1, help="decides the split, the order and the initial weights")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the picture")
    options = parser.parse_args(arguments)
    for name in ("epochs", "batch", "hidden"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(options, name)}")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Train and report; return the exit status."""
    options = parse_arguments(arguments)
    digits = digits_data.load(seed=options.seed)
    if options.batch > len(digits.train_images):
        sys.exit(f"--batch must be at most {len(digits.train_images)}, the number of training images")
    try:
        import matplotlib  # noqa: F401  before the training, not after it
    except ImportError as error:
        sys.exit(f"The picture is drawn by matplotlib, which is not here ({error}).\n"
                 "Install it with:  pip install 'tensor-runtime[examples]'")
    model = Model(options.hidden, options.learning_rate, options.seed)
    progress = Progress(options.epochs)
    with contextlib.ExitStack() as stack:
        target = options.target or stack.enter_context(own_server())
        print(f"{progress.paint('Handwritten digits', '1')}: {len(digits.train_images)} images to learn from, "
              f"{len(digits.test_images)} for the test")
        print(f"Network 64-{options.hidden}-10 with {model.num_parameters} parameters, "
              f"server {target}{'' if options.target else ' (started for this)'}")
        try:
            session = stack.enter_context(runtime.Session(target, model.graph, token=options.token))
            history = train(session, model, digits, options, progress)
        except Error as error:
            progress.end()
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            progress.end()
            print("interrupted", file=sys.stderr)
            return 130
    return report(history, options.out / "digits.png", progress)


def report(history: History, picture: Path, progress: Progress) -> int:
    """Print the result and save the picture; return the exit status."""
    draw(history, picture)
    accuracy = history.test_accuracies[-1]
    reached = accuracy >= GOAL
    bars = progress.sparkline([float(np.log(loss + 1e-6)) for loss in history.losses])
    if bars:
        print(f"log loss       {progress.paint(bars, '36')}")
    verdict = progress.paint(f"{accuracy:.4f}", "1;32" if reached else "1;31")
    print(f"test accuracy  {verdict} ({'at least' if reached else 'below the goal of'} {GOAL})")
    print(f"speed          {history.steps_per_second:.0f} steps/s, {len(history.losses)} steps in "
          f"{history.seconds:.1f} s")
    print(f"picture        {picture}")
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
