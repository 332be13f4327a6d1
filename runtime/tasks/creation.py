"""Making tasks: all of a request, or none of it."""

from __future__ import annotations

from collections.abc import Sequence

from runtime.errors import FailedPrecondition, NotFound
from runtime.objects.value import EMPTY
from runtime.store.tasks import Exists, TaskTables
from runtime.tasks import propagation, transitions
from runtime.tasks.model import (
    ResultRow,
    ResultStatus,
    SessionRow,
    SessionStatus,
    SpecRow,
    TaskOptions,
    TaskRequest,
    TaskRow,
    TaskStatus,
)

__all__ = ["Refused", "create_early", "create_tasks", "open_session", "stage_subtasks", "submit_subtasks"]


class Refused(Exception):
    """Nothing of a request was made, because of these tasks: an id or a key is in use.

    Attributes
    ----------
    ids : tuple of str
        Their ids in the order of the request, each once.
    """

    def __init__(self, ids: tuple[str, ...]) -> None:
        super().__init__(ids)
        self.ids = ids


def open_session(tables: TaskTables, session_id: str) -> SessionRow:
    """Return a session that takes tasks.

    Raises
    ------
    NotFound
        The session does not exist.
    FailedPrecondition
        It is canceled.
    """
    session = tables.session_by_id(session_id)
    if session is None:
        raise NotFound(f"session {session_id!r} is not known")
    if session.status is not SessionStatus.RUNNING:
        raise FailedPrecondition(f"session {session_id!r} is canceled: it takes no more tasks")
    return session


def create_tasks(
    tables: TaskTables, session_id: str, options: TaskOptions | None, requests: Sequence[TaskRequest], now_s: float
) -> SessionRow:
    """Make the tasks of a client's request, put them into the queue, and return their session.

    Parameters
    ----------
    options : TaskOptions or None
        None: the session's.

    Raises
    ------
    NotFound
        The session does not exist.
    FailedPrecondition
        It is canceled.
    Refused
        An id or a key is in use.
    """
    session = open_session(tables, session_id)
    tasks, specs, results = _rows(tables, session, options, requests, parent=0, now_s=now_s)
    waiting: list[tuple[int, str, int]] = []
    aborted: list[TaskRow] = []
    own_keys = {result.key for result in results} if any(spec.dependencies for spec in specs) else set()
    for task, spec in zip(tasks, specs):
        task.status = TaskStatus.SUBMITTED
        task.submitted_s = now_s
        if spec.dependencies:
            missing, is_aborted = _missing(tables, session.number, spec.dependencies, own_keys)
            task.missing = len(missing)
            waiting += [(session.number, key, task.number) for key in missing]
            if is_aborted:
                aborted.append(task)
        if task.missing == 0:
            task.place = tables.number()
    _insert(tables, session, requests, tasks, specs, results)
    tables.add_waiting(waiting)
    propagation.abort_dependents(tables, aborted, now_s)
    return session


def create_early(
    tables: TaskTables,
    session: SessionRow,
    options: TaskOptions | None,
    requests: Sequence[TaskRequest],
    numbers: Sequence[int],
    now_s: float,
    *,
    are_leased: bool,
) -> list[TaskRow]:
    """Make tasks that were given their numbers before, have one result each and no dependencies; return their rows.

    Parameters
    ----------
    are_leased : bool
        Whether agents have all of them already, as the same write tells next.

    Raises
    ------
    Refused
        An id or a key is in use; then nothing has changed.
    """
    if not tables.are_new(
        session.number, [request.id for request in requests], [request.expected_keys[0] for request in requests]
    ):
        raise Refused(_offending(tables, session, requests, set(), set(), 0))
    tasks, specs, results = _rows(tables, session, options, requests, parent=0, now_s=now_s, numbers=numbers)
    for task in tasks:
        task.status = TaskStatus.SUBMITTED
        task.submitted_s = now_s
        task.place = task.number
    _insert(tables, session, requests, tasks, specs, results, are_leased=are_leased)
    return tasks


def stage_subtasks(
    tables: TaskTables, parent: TaskRow, options: TaskOptions | None, requests: Sequence[TaskRequest], now_s: float
) -> None:
    """Make the tasks that a running task asks for; they stay CREATING until it has ended.

    Raises
    ------
    Refused
        An id or a key is in use, a key of the parent is claimed by another of its subtasks already, or the session is
        canceled (then all ids).
    """
    session = tables.session(parent.session)
    if session.status is not SessionStatus.RUNNING:
        raise Refused(tuple(dict.fromkeys(request.id for request in requests)))
    tasks, specs, _ = _rows(tables, session, options, requests, parent=parent.number, now_s=now_s)
    inherited = set(tables.spec(parent.spec).expected_keys)
    claimed = {key for child in tables.staged_children(parent.number) for key in tables.spec(child.spec).expected_keys}
    _insert(tables, session, requests, tasks, specs, [], inherited=inherited, claimed=claimed, parent=parent.number)


def submit_subtasks(tables: TaskTables, parent: TaskRow, children: Sequence[TaskRow], now_s: float) -> None:
    """Put the staged subtasks of a task that ends well into the queue, and give them the keys that they claim.

    Raises
    ------
    Refused
        Another task has made a key meanwhile that a subtask claims, or the parent does not own one any more.
    """
    session = parent.session
    if not children:
        return
    specs = [tables.spec(child.spec) for child in children]
    new: list[ResultRow] = []
    inherited: list[tuple[ResultRow, int]] = []
    for child, spec in zip(children, specs):
        for key in spec.expected_keys:
            known = tables.result(session, key)
            if known is None:
                new.append(
                    ResultRow(session, key, child.number, ResultStatus.CREATED, now_s, number=tables.number())
                )
            elif known.owner == parent.number and known.status is ResultStatus.CREATED:
                inherited.append((known, child.number))
            else:
                raise Refused((child.id,))
    # From here on nothing fails.
    for result, owner in inherited:
        transitions.hand_over(tables, result, owner)
    transitions.add_results(tables, new)
    aborted = []
    for child, spec in zip(children, specs):
        missing, is_aborted = _missing(tables, session, spec.dependencies, frozenset())
        child.missing = len(missing)
        if not missing:
            child.place = tables.number()
        tables.add_waiting((session, key, child.number) for key in missing)
        transitions.move_task(tables, child, TaskStatus.SUBMITTED, now_s=now_s)
        if is_aborted:
            aborted.append(child)
    propagation.abort_dependents(tables, aborted, now_s)


def _rows(
    tables: TaskTables,
    session: SessionRow,
    options: TaskOptions | None,
    requests: Sequence[TaskRequest],
    *,
    parent: int,
    now_s: float,
    numbers: Sequence[int] | None = None,
) -> tuple[list[TaskRow], list[SpecRow], list[ResultRow]]:
    """Return the rows of new tasks as they would be if nothing stood against them."""
    options_number = session.options_number if options is None else tables.store_options(options, session.number)
    if options is None:
        options = tables.options(options_number)
    tasks: list[TaskRow] = []
    specs: list[SpecRow] = []
    results: list[ResultRow] = []
    creating, created = TaskStatus.CREATING, ResultStatus.CREATED
    next_number = tables.number
    task_number = next_number if numbers is None else iter(numbers).__next__
    session_number, priority, retries = session.number, options.priority, options.max_retries
    for request in requests:
        number = task_number()
        keys = request.expected_keys
        task = TaskRow(number, request.id, session_number, number, 0, priority, retries, creating)
        task.created_s = now_s
        tasks.append(task)
        specs.append(
            SpecRow(number, session_number, options_number, parent, keys, request.dependencies, request.payload)
        )
        name = number
        for key in keys:
            results.append(ResultRow(session_number, key, number, created, now_s, EMPTY, name or next_number()))
            name = 0
    return tasks, specs, results


def _insert(
    tables: TaskTables,
    session: SessionRow,
    requests: Sequence[TaskRequest],
    tasks: Sequence[TaskRow],
    specs: Sequence[SpecRow],
    results: Sequence[ResultRow],
    *,
    inherited: set[str] | None = None,
    claimed: set[str] | None = None,
    parent: int = 0,
    are_leased: bool = False,
) -> None:
    """Insert all rows, or raise `Refused`.

    That ids and keys are new is left to the store's own constraints; who is to blame is found out only when they fail.
    Subtasks have no results yet, so their keys are looked up.
    """
    offending: tuple[str, ...] = ()
    if parent:
        offending = _offending(tables, session, requests, inherited or set(), claimed or set(), parent)
    if not offending:
        try:
            transitions.add_tasks(tables, tasks, are_leased=are_leased)
            transitions.add_results(tables, results)
        except Exists:
            offending = _offending(tables, session, requests, set(), set(), 0, tasks)
            assert offending, "the store refused ids that are new"
    if offending:
        raise Refused(offending)
    tables.insert_specs(specs)
    for spec in specs:
        if spec.payload.ref is not None:
            tables.refer(spec.payload.ref)


def _offending(
    tables: TaskTables,
    session: SessionRow,
    requests: Sequence[TaskRequest],
    inherited: set[str],
    claimed: set[str],
    parent: int,
    inserted: Sequence[TaskRow] = (),
) -> tuple[str, ...]:
    """Return the ids of the requests that cannot be met."""
    # What this very request has inserted before it failed is not in anybody's way.
    own = {task.number for task in inserted}
    known_ids = {
        task_id
        for task_id in tables.known_task_ids(dict.fromkeys(request.id for request in requests))
        if not own or (row := tables.task_by_id(task_id)) is None or row.number not in own
    }
    keys = dict.fromkeys(key for request in requests for key in request.expected_keys)
    known_keys = set(claimed)
    for result in tables.results(session.number, list(keys)):
        if result.owner in own:
            continue
        is_parents = result.key in inherited and result.owner == parent and result.status is ResultStatus.CREATED
        if not is_parents:
            known_keys.add(result.key)
    ids: dict[str, int] = {}
    uses: dict[str, int] = {}
    for request in requests:
        ids[request.id] = ids.get(request.id, 0) + 1
        for key in request.expected_keys:
            uses[key] = uses.get(key, 0) + 1
    return tuple(
        dict.fromkeys(
            request.id
            for request in requests
            if ids[request.id] > 1
            or request.id in known_ids
            or any(uses[key] > 1 or key in known_keys for key in request.expected_keys)
        )
    )


def _missing(
    tables: TaskTables, session: int, dependencies: Sequence[str], own_keys: set[str] | frozenset[str]
) -> tuple[list[str], bool]:
    """Return the keys that are not completed yet, and whether one is aborted."""
    if not dependencies:
        return [], False
    asked = [key for key in dependencies if key not in own_keys]
    status = {result.key: result.status for result in tables.results(session, asked)} if asked else {}
    missing = [key for key in dependencies if status.get(key) is not ResultStatus.COMPLETED]
    return missing, any(status.get(key) is ResultStatus.ABORTED for key in dependencies)
