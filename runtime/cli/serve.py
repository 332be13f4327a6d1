"""``tensor-runtime serve``: the server as a process of its own."""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runtime.config import Settings
    from runtime.edge.listener import Listener

# Free memory goes back to the system after this long without a call; sooner, the next large message would pay for
# fresh pages again.
IDLE_TRIM_S = 5.0
# A flood of one and the same log line becomes one in this many seconds.
LOG_PERIOD_S = 1.0
# Containers that are made before garbage is looked for among them.
_GC_OBJECTS = 5000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments: every setting is one."""
    from runtime.cli.settings_flags import add_config_flags

    add_config_flags(parser)
    parser.add_argument("--stop-at-eof", action="store_true",
                        help="stop when standard input ends, as with SIGTERM: the server then never outlives whoever "
                        "holds the other end of that pipe")


def run(options: argparse.Namespace) -> int:
    """Serve until a signal ends it; return the exit status."""
    # Importing makes many objects and no garbage; looking for some costs a sixteenth of the start.
    gc.disable()
    try:
        return _run(options)
    finally:
        gc.enable()


def _run(options: argparse.Namespace) -> int:
    from runtime import log, process_tuning
    from runtime.cli.settings_flags import load_settings
    from runtime.config import unknown_variables

    settings = load_settings(options).settings
    # All before anything starts a thread or imports grpc or numpy.
    malloc_tuned = settings.malloc == "tuned" and process_tuning.tune_malloc()
    process_tuning.tune_blas()
    process_tuning.raise_descriptor_limit()
    if settings.grpc_tuning == "tested":
        process_tuning.tune_grpc()
    log.configure(settings.log_level, settings.log_format)
    import logging

    logger = logging.getLogger(__name__)
    for handler in logging.getLogger().handlers:
        handler.addFilter(log.RateLimit(LOG_PERIOD_S))
    for sentence in unknown_variables():
        logger.warning(sentence)

    from runtime.edge import loops

    loop = loops.new_loop(settings.loop)
    try:
        loops.run(loop, _serve(settings, tuned=malloc_tuned, stop_at_eof=options.stop_at_eof))
    finally:
        # Not closed: gRPC may know the loop until the very end of the process, which is now.
        logging.shutdown()
    return 0


async def _serve(settings: Settings, *, tuned: bool, stop_at_eof: bool) -> None:
    import signal

    from runtime.edge.listener import Listener

    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    signals = StopSignals(stopped)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signals.arrived, signal.Signals(number).name)
    if stop_at_eof:
        watch_standard_input(loop, signals)
    if tuned and settings.cluster:
        from runtime.transport import handover

        handover.hold_arrays()
    listener = Listener(settings)
    await listener.start()
    announce(listener.target)
    gc.freeze()  # what is there now stays: no later collection has to walk it
    # Thousands of small tasks live for some milliseconds, and leave no cycles: most are gone before a walk this rare.
    gc.set_threshold(_GC_OBJECTS, *gc.get_threshold()[1:])
    gc.enable()
    trimmer = asyncio.ensure_future(_trim_when_idle(listener)) if tuned else None
    try:
        await stopped.wait()
        stop = asyncio.ensure_future(listener.stop(settings.grace_s))
        again = asyncio.ensure_future(signals.again.wait())
        await asyncio.wait((stop, again), return_when=asyncio.FIRST_COMPLETED)
        if not stop.done():
            await listener.stop(0.0)
        again.cancel()
        await stop
    finally:
        if trimmer is not None:
            trimmer.cancel()


def announce(target: str) -> None:
    """Print the ready line; a reader that has gone away is no reason not to serve."""
    try:
        print(f"ready {target}", flush=True)
    except BrokenPipeError:
        # Python would try to flush the rest at exit and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class StopSignals:
    """The first signal asks for a graceful stop, a second one for a stop at once."""

    def __init__(self, stopped: asyncio.Event) -> None:
        self._stopped = stopped
        self.again = asyncio.Event()

    def arrived(self, name: str) -> None:
        import logging

        logger = logging.getLogger(__name__)
        if self._stopped.is_set():
            logger.warning("stopping at once", extra={"signal": name})
            self.again.set()
        else:
            logger.info("draining", extra={"signal": name})
            self._stopped.set()


def watch_standard_input(loop: asyncio.AbstractEventLoop, signals: StopSignals) -> None:
    """Take the end of standard input for a signal; what comes before it is thrown away.

    Raises
    ------
    InvalidArgument
        If standard input is closed, or is a file: its end would say nothing.
    """
    from runtime.errors import InvalidArgument

    def readable() -> None:
        try:
            ended = not os.read(descriptor, 4096)
        except BlockingIOError:
            return
        except OSError:
            ended = True
        if ended:
            loop.remove_reader(descriptor)
            signals.arrived("EOF")

    needed = "--stop-at-eof needs a pipe, a socket or a terminal on standard input"
    if sys.stdin is None:
        raise InvalidArgument(f"{needed}: it is closed")
    descriptor = sys.stdin.fileno()
    try:
        loop.add_reader(descriptor, readable)
    except OSError as error:
        raise InvalidArgument(f"{needed}: {error}") from None


async def _trim_when_idle(listener: Listener) -> None:
    """Give free memory back once the server has had nothing to do for a while."""
    from runtime.process_tuning import trim_malloc

    account = listener.account
    trimmed = seen = account.num_calls
    while True:
        await asyncio.sleep(IDLE_TRIM_S)
        calls = account.num_calls
        if calls == seen and calls != trimmed and account.used == 0:
            await asyncio.get_running_loop().run_in_executor(None, trim_malloc)
            trimmed = calls
        seen = calls
