"""A function as a worker: how its parameters are filled from a task, and what becomes of what it returns."""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any, overload

from runtime.errors import MAX_ENCODED_BYTES, MAX_MESSAGE_BYTES, InvalidArgument
from runtime.tasks.worker.task import TaskBase, TaskError, sendable

__all__ = ["Worker", "traceback_text", "worker"]

TASK = "task"
"""A parameter of this name gets the task itself."""

_CUT = "... [cut]\n"


class Worker:
    """A function that runs tasks; still a function for whoever calls it.

    Attributes
    ----------
    function : callable
        What it was made from.
    name : str
        ``module.function``.
    is_arrays : bool
        Whether payload, dependencies and results are named arrays.
    is_async : bool
        Whether the function is a coroutine.
    is_plain : bool
        Whether it needs nothing of its task but the payload: `run_plain` will do.
    """

    def __init__(self, function: Callable[..., Any], is_arrays: bool) -> None:
        if not callable(function):
            raise InvalidArgument(f"worker: {function!r} is no function")
        self.function = function
        self.name = f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', repr(function))}"
        self.is_arrays = is_arrays
        self.is_async = inspect.iscoroutinefunction(function)
        functools.update_wrapper(self, function)
        parameters = inspect.signature(function).parameters
        self._takes_task = TASK in parameters
        self._others = [name for name in parameters if name != TASK]
        self.is_plain = not (is_arrays or self._takes_task or self.is_async)
        if not is_arrays and len(self._others) > 1:
            raise InvalidArgument(
                f"worker {self.name}: a function over bytes has at most a parameter for the payload and one called "
                f"'{TASK}', not {', '.join(parameters)}; with arrays=True the payload's arrays are parameters"
            )

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Call the function."""
        return self.function(*arguments, **named)

    def __repr__(self) -> str:
        return f"<Worker {self.name}>"

    def run(self, task: TaskBase) -> Any:
        """Call the function for a task; for a coroutine, return what is to be awaited.

        Raises
        ------
        TaskError
            The payload does not fit the function's parameters: it would not the next time either.
        """
        named: dict[str, Any] = {}
        arguments: tuple[Any, ...] = ()
        if self.is_arrays:
            if self._others:
                try:
                    named.update(task.arrays)
                except InvalidArgument as error:
                    raise TaskError(f"the payload of task {task.id!r}: {error.message}") from None
        elif self._others:
            arguments = (task.payload,)
        if self._takes_task:
            named[TASK] = task
        if self.is_arrays and self._others:
            try:
                inspect.signature(self.function).bind(*arguments, **named)
            except TypeError as error:
                names = ", ".join(task.arrays) or "none"
                raise TaskError(
                    f"the arrays in the payload of task {task.id!r} ({names}) do not fit {self.name}: {error}"
                ) from None
        return self.function(*arguments, **named)

    def run_plain(self, payload: bytes) -> Any:
        """Call the function of a worker that `is_plain`."""
        return self.function(payload) if self._others else self.function()

    def results(self, task: TaskBase, returned: Any) -> dict[str, Any]:
        """Return the values by key that the function's return stands for.

        One key that has no value yet gets what was returned; for several, a mapping of keys to values is returned.

        Raises
        ------
        TaskError
            It cannot be told what belongs to which key.
        """
        left = [key for key in task.expected_keys if key not in task.sent and key not in task.handed_over]
        if returned is None:
            return {}
        if not left:
            raise TaskError(f"{self.name} returned a value, but task {task.id!r} has no result left without one")
        is_by_key = isinstance(returned, Mapping) and set(returned) <= set(left) and len(returned) > 0
        if len(left) == 1 and not (is_by_key and not self.is_arrays):
            return {left[0]: returned}
        if is_by_key:
            return dict(returned)
        if isinstance(returned, Mapping):
            unknown = ", ".join(repr(key) for key in returned if key not in left)
            raise TaskError(f"{self.name} returned values for {unknown}; task {task.id!r} makes {', '.join(left)}")
        raise TaskError(
            f"{self.name} returned one value for the {len(left)} results of task {task.id!r}: return a mapping of keys "
            f"({', '.join(left)}) to values, or send each by task.send"
        )


@overload
def worker(function: Callable[..., Any], /) -> Worker: ...
@overload
def worker(*, arrays: bool = False) -> Callable[[Callable[..., Any]], Worker]: ...
def worker(function: Callable[..., Any] | None = None, /, *, arrays: bool = False) -> Any:
    """Make a function a worker.

    Parameters
    ----------
    arrays : bool
        False: the function takes the payload as bytes (if it has a parameter for it) and returns bytes. True: the
        payload is named arrays, which are the function's parameters; it returns an array or named arrays.

    Notes
    -----
    A parameter called ``task`` gets the `Task` (for ``async def`` functions an `AsyncTask`). What is returned becomes
    the task's result; with several results, return a mapping of keys to values, or send each by ``task.send``. None
    stands for nothing. An ordinary function runs in a thread of its own, a coroutine on the event loop of the worker.

    An exception has the task tried again, as often as its options allow, with the traceback as the attempt's error;
    `TaskError` ends it for good.

    Examples
    --------
    >>> @worker
    ... def double(payload: bytes) -> bytes:
    ...     return payload * 2
    >>> double(b"ab")
    b'abab'
    """
    if function is not None:
        return Worker(function, False)
    return lambda function: Worker(function, arrays)


def load(text: str) -> Worker:
    """Return the worker that ``module:name`` names; the current folder is looked into too.

    Raises
    ------
    InvalidArgument
        There is none; says why.
    """
    module_name, colon, name = text.partition(":")
    if not colon or not module_name or not name:
        raise InvalidArgument(f"worker {text!r}: write module:function")
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            reason = f"there is no module {error.name!r} ({here} was looked into)"
            raise InvalidArgument(f"worker {text!r}: {reason}") from None
        raise _broken(text, module_name, error) from error
    except Exception as error:
        raise _broken(text, module_name, error) from error
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise InvalidArgument(f"worker {text!r}: module {module_name!r} has no {name!r}") from None
    if not callable(found):
        raise InvalidArgument(f"worker {text!r}: {name!r} is no function but of type {type(found).__name__}")
    return found if isinstance(found, Worker) else Worker(found, False)


def _broken(text: str, module: str, error: Exception) -> InvalidArgument:
    """Return what to say of a module that fails when it is imported: its own part of the traceback."""
    trace = error.__traceback__
    while trace is not None and (
        trace.tb_frame.f_code.co_filename in (__file__, importlib.__file__)
        or trace.tb_frame.f_code.co_filename.startswith("<frozen importlib")
    ):
        trace = trace.tb_next
    told = "".join(traceback.format_exception(type(error), error, trace)).rstrip()
    return InvalidArgument(f"worker {text!r}: module {module!r} cannot be imported:\n{told}")


def traceback_text(error: BaseException) -> str:
    """Return an exception with its traceback from the worker's function on; only its end if it is too long."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code not in (Worker.run.__code__, Worker.run_plain.__code__):
        trace = trace.tb_next
    trace = error.__traceback__ if trace is None or trace.tb_next is None else trace.tb_next
    text = sendable("".join(traceback.format_exception(type(error), error, trace)).rstrip())
    size, encoded = 0, 0
    # From the end, for there it says what happened.
    for index in range(len(text) - 1, -1, -1):
        character = text[index].encode()
        size += len(character)
        encoded += 1 if " " <= text[index] <= "~" and text[index] != "%" else 3 * len(character)
        if size > MAX_MESSAGE_BYTES - len(_CUT) or encoded > MAX_ENCODED_BYTES - 3 * len(_CUT):
            return _CUT + text[index + 1 :]
    return text


