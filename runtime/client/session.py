"""Run graphs, in this process or on a server: the home of ``runtime.Session``.

>>> from runtime.graph.builder import Graph
>>> graph = Graph()
>>> x = graph.placeholder("float32", [None], name="x")
>>> with Session(graph=graph) as session:
...     session.run({"double": x * 2.0, "sum": graph.reduce_sum(x)}, {x: [1, 2, 3]})
{'double': array([2., 4., 6.], dtype=float32), 'sum': np.float32(6.0)}
"""

from __future__ import annotations

import atexit
import logging
import math
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from runtime import wire
from runtime._ext.errors import Error, FailedPrecondition, InvalidArgument
from runtime.client.callables import Callable
from runtime.client.feeds import Feeds, feed_name
from runtime.client.fetches import FetchPlan, element_name
from runtime.client.graphs import open_graph
from runtime.client.messages import as_message, fill_message
from runtime.client.transport import DeviceInfo, Signature, Transport

if TYPE_CHECKING:
    from runtime.client.access import Access

__all__ = ["DeviceInfo", "Session"]

logger = logging.getLogger(__name__)

# How long the first step waits for a server that is not there yet, in seconds.
CONNECT_TIMEOUT_S = 10.0
# How long a server may be silent, as servers have it among each other (the setting peer_timeout_s).
PEER_TIMEOUT_S = 15.0


class Session:
    """A graph and the means to run parts of it.

    Parameters
    ----------
    target : str, optional
        ``grpc://HOST:PORT``, ``grpcs://HOST:PORT`` (TLS) or ``unix:PATH`` of a server, this project's or TensorFlow's.
        Without one the graph runs in this process.
    graph : object, optional
        A `runtime.Graph`, a GraphDef message of any package, its bytes, the path of a file that holds one, or a
        ``tf.Graph``. A new `runtime.Graph` when not given; see attribute `graph`. Graphs may grow between runs.
    config : ConfigProto, bytes or dict, optional
        As TensorFlow's; a dict holds fields by name. ``operation_timeout_in_ms`` bounds every call.
    token : str, optional
        Sent to the server as ``authorization: Bearer TOKEN``.
    tls : bool, optional
        Use TLS with the system's certificate authorities. Implied by the following.
    ca, cert, key : path or bytes, optional
        PEM: authorities to trust, and this client's certificate and key for mutual TLS.
    server_name : str, optional
        Name in the server's certificate when it is not the target's host.
    connect_timeout_s : float
        Seconds that the first step waits for a server that is not there yet.
    peer_timeout_s : float
        Seconds after which a server that something is awaited from, and that answers nothing at all (it was frozen, or
        cut off from the network), counts as lost: UNAVAILABLE. 0 to wait for ever. How long a step takes has nothing to
        do with it: a server that is busy answers.

    Attributes
    ----------
    target : str
        Empty in process.
    graph : object
        What was given, or the new graph to build in.

    Raises
    ------
    InvalidArgument
        For a target, graph, config or credentials that cannot be understood.

    Notes
    -----
    Nothing is sent before the first step. Variables live on the server, beyond the session; in process they are the
    session's own and end with it.

    Concurrency: every method may be called from any thread, and steps run side by side. A step waits until it is done,
    its time is up (``timeout_in_ms``), the session is closed from another thread, or the waiting is interrupted
    (KeyboardInterrupt); in the last three cases the step is cancelled.
    """

    def __init__(self, target: str | None = None, graph: Any = None, config: Any = None, *, token: str | None = None,
                 tls: bool | None = None, ca: Any = None, cert: Any = None, key: Any = None,
                 server_name: str | None = None, connect_timeout_s: float = CONNECT_TIMEOUT_S,
                 peer_timeout_s: float = PEER_TIMEOUT_S) -> None:
        self.target = _target(target)
        if not 0 <= peer_timeout_s < math.inf:
            raise InvalidArgument(f"peer_timeout_s is {peer_timeout_s!r}: it must be seconds, or 0 to wait for ever")
        self._source = open_graph(graph)
        self.graph = self._source.growing if graph is None else graph
        config = as_message(wire.ConfigProto, config, "config")
        self._transport: Transport
        if self.target:
            from runtime.client.remote import RemoteTransport

            access = _access(self.target, token, tls, ca, cert, key, server_name)
            self._transport = RemoteTransport(self.target, config, access, connect_timeout_s, peer_timeout_s)
        else:
            from runtime.client.local import LocalTransport

            self._transport = LocalTransport(config)
        self._closed = False
        self._extending = threading.Lock()
        _open_sessions.add(self)

    def run(self, fetches: Any, feed_dict: Mapping[Any, Any] | None = None, options: Any = None,
            run_metadata: Any = None, *, targets: Any = (), profile: bool = False) -> Any:
        """Run what is needed for some tensors and operations, and return their values.

        Parameters
        ----------
        fetches : object
            A tensor, a variable, an operation or a name (``"x:0"`` for a tensor, ``"x"`` for an operation), or lists,
            tuples, named tuples, dicts and dataclasses of these, nested.
        feed_dict : mapping, optional
            Values for tensors, by tensor or name. Any tensor may be fed, not only placeholders. Values are cast to
            the tensor's type.
        options : RunOptions, bytes or dict, optional
            Such as ``{"timeout_in_ms": 500}`` or ``{"trace_level": "FULL_TRACE"}``.
        run_metadata : RunMetadata, optional
            A message, of any package, that is filled when `options` asks for something.
        targets : operations or names, optional
            Run as well, without a place in the result.
        profile : bool
            Trace the step, and print the nodes that took longest; see `runtime.observe.profile`.

        Returns
        -------
        object
            In the form of `fetches`: arrays (numpy scalars for scalars, bytes for scalar strings), which are the
            caller's to change; None for operations.

        Raises
        ------
        InvalidArgument
            For fetches, feeds or options that cannot be understood, naming them.
        Error
            Of `runtime.errors`: what the step failed with, or why the server cannot be reached.
        """
        self._check_open()
        plan = FetchPlan(fetches)
        operations = list(dict.fromkeys([*plan.operations, *_operation_names(targets)]))
        self._send_news()
        feeds = Feeds.of(self._source, feed_dict)
        given = dict(zip(feeds.names, feeds.values, strict=True))
        wanted = tuple(name for name in plan.tensors if name not in given)
        raw = _raw_options(options, profile)
        values: dict[str, Any] = given
        if wanted or operations:
            signature = Signature(feeds.names, feeds.types, wanted, tuple(operations), raw)
            outputs, metadata = self._transport.run(signature, feeds.values)
            values = {**given, **dict(zip(wanted, outputs, strict=True))}
            if run_metadata is not None:
                fill_message(run_metadata, metadata)
            if profile:
                from runtime.observe.profile import Profile, peak_bytes

                told = wire.RunMetadata.FromString(metadata)
                print(Profile([told.step_stats], peak_bytes(told)).table())
        return plan.build([_plain(values[name]) for name in plan.tensors])

    def partial_run_setup(self, fetches: Any, feeds: Sequence[Any] = ()) -> str:
        """Prepare a step that is run in pieces: its feeds come and its fetches leave over several calls.

        Parameters
        ----------
        fetches : object
            Everything that will be fetched or run; operations in it run as soon as they can.
        feeds : sequence
            Everything that will be fed: tensors or names.

        Returns
        -------
        str
            Handle for `partial_run`.
        """
        self._check_open()
        plan = FetchPlan(fetches)
        self._send_news()
        names = tuple(dict.fromkeys(feed_name(key) for key in feeds))
        return self._transport.partial_setup(Signature(names, (), tuple(plan.tensors), tuple(plan.operations)))

    def partial_run(self, handle: str, fetches: Any, feed_dict: Mapping[Any, Any] | None = None) -> Any:
        """Go on with a step that `partial_run_setup` prepared: feed some tensors, fetch some that can be computed now.

        Raises
        ------
        InvalidArgument
            If something was not named at setup, was used before, or needs a feed that has not come.
        """
        self._check_open()
        plan = FetchPlan(fetches)
        if plan.operations:
            raise InvalidArgument(f"partial_run cannot fetch operation '{plan.operations[0]}': name operations in "
                                  "partial_run_setup, and they run as soon as they can")
        feeds = Feeds.of(self._source, feed_dict)
        signature = Signature(feeds.names, feeds.types, tuple(plan.tensors), ())
        outputs = self._transport.partial_run(handle, signature, feeds.values)
        return plan.build([_plain(value) for value in outputs])

    def make_callable(self, fetches: Any, feed_list: Sequence[Any] = (), *, targets: Any = (), options: Any = None
                      ) -> Callable:
        """Return a function for a step that is run often: compiled once, called with values by position.

        Parameters
        ----------
        fetches : object
            As for `run`.
        feed_list : sequence
            Tensors or names, in the order of the function's arguments.
        targets : operations or names, optional
        options : RunOptions, bytes or dict, optional
            For every call.

        Examples
        --------
        >>> session = Session()
        >>> x = session.graph.placeholder("int32", [], name="x")
        >>> with session, session.make_callable(x * x, [x]) as square:
        ...     square(3), square(4)
        (np.int32(9), np.int32(16))
        """
        self._check_open()
        plan = FetchPlan(fetches)
        self._send_news()
        names = [feed_name(key) for key in feed_list]
        for name in plan.tensors:
            if name in names:
                raise InvalidArgument(f"'{name}' is both fed and fetched")
        message = as_message(wire.RunOptions, options, "options")
        request = wire.CallableOptions(feed=names, fetch=plan.tensors, run_options=message,
                                       target=list(dict.fromkeys([*plan.operations, *_operation_names(targets)])))
        handle = self._transport.make_callable(request)
        return Callable(self._transport, self._source, handle, names, plan, message.timeout_in_ms / 1000.0)

    def list_devices(self) -> list[DeviceInfo]:
        """Return the devices that the session can use."""
        self._check_open()
        self._send_news()
        return self._transport.list_devices()

    @staticmethod
    def reset(target: str, containers: Sequence[str] = (), config: Any = None, *, token: str | None = None,
              tls: bool | None = None, ca: Any = None, cert: Any = None, key: Any = None,
              server_name: str | None = None, connect_timeout_s: float = CONNECT_TIMEOUT_S) -> None:
        """Empty containers of a server, and end all of its sessions, everybody's.

        Parameters
        ----------
        target : str
        containers : sequence of str
            The default container when none is named.
        config : ConfigProto, bytes or dict, optional
            Its ``device_filters`` choose the tasks of a cluster.
        """
        where = _target(target)
        if not where:
            raise InvalidArgument("reset needs the target of a server; in process every session has state of its own, "
                                  "which ends with it")
        from runtime.client.remote import reset

        reset(where, list(containers), as_message(wire.ConfigProto, config, "config"),
              _access(where, token, tls, ca, cert, key, server_name), connect_timeout_s)

    def close(self) -> None:
        """End the session; its running steps are cancelled. Does nothing the second time.

        A server that cannot be reached any more is no error here.
        """
        if not self._closed:
            self._closed = True
            self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
                 ) -> None:
        self.close()

    def __del__(self) -> None:
        # Without this a forgotten session would live on in its server.
        if not getattr(self, "_closed", True) and not sys.is_finalizing():
            try:
                self.close()
            except Error:
                return

    def __repr__(self) -> str:
        # A debugger, or a test that failed, shows one whose constructor has raised.
        state = "never opened" if not hasattr(self, "_closed") else "closed" if self._closed else "open"
        return f"<runtime.Session {getattr(self, 'target', '') or 'in process'}, {state}>"

    def _check_open(self) -> None:
        if self._closed:
            raise FailedPrecondition("Attempted to use a closed Session.")

    def _send_news(self) -> None:
        """Give the server the nodes it does not have; the first time this makes the session."""
        if self._transport.is_open and not self._source.has_news:
            return
        with self._extending:
            if self._transport.is_open and not self._source.has_news:
                return
            graph_def, version = self._source.news()
            if not self._transport.is_open:
                self._transport.create(graph_def)
            elif graph_def.node:
                self._transport.extend(graph_def)
            self._source.sent(graph_def, version)


_open_sessions: weakref.WeakSet[Session] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Close what the program left open, while there is still an interpreter to do it."""
    for session in list(_open_sessions):
        try:
            session.close()
        except Error as error:
            logger.info("%r could not be closed: %s", session, error)


def _target(target: str | None) -> str:
    if target is not None and not isinstance(target, str):
        raise InvalidArgument(f"target must be text such as grpc://HOST:PORT, or None to run in this process; got "
                              f"{type(target).__name__}")
    if target:
        from runtime.client.access import address_of

        address_of(target)
    return target or ""


def _access(target: str, token: str | None, tls: bool | None, ca: Any, cert: Any, key: Any, server_name: str | None
            ) -> Access:
    from runtime.client.access import Access

    return Access.of(target, token, tls, ca, cert, key, server_name)


def _raw_options(options: Any, traced: bool) -> bytes:
    """Return RunOptions as bytes, none where they ask for nothing."""
    if options is None and not traced:
        return b""
    message = wire.RunOptions()
    message.CopyFrom(as_message(wire.RunOptions, options, "options"))
    if traced:
        message.trace_level = wire.RunOptions.FULL_TRACE
    return message.SerializeToString()


def _operation_names(targets: Any) -> list[str]:
    names = []
    for item in targets if isinstance(targets, (list, tuple, set, frozenset)) else [targets]:
        name = element_name(item)
        if name is None:
            raise InvalidArgument(f"target {item!r} is neither an operation nor a name")
        names.append(name.rpartition(":")[0] if ":" in name else name)
    return names


def _plain(value: Any) -> Any:
    """Return a scalar array as a scalar, as numpy's own functions do."""
    return value if value.ndim else value[()]
