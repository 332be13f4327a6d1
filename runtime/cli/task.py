"""``tensor-runtime task list|show|why|get|cancel|wait``: the tasks of a server's task plane."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runtime.client.tasks.aio import AsyncTaskClient


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of all forms."""
    from runtime.cli.listing import add_output_flag
    from runtime.cli.task_plane import add_file_flag, add_forms, add_server_flags, add_timeout_flag

    forms = add_forms(parser, "list", "show", "why", "get", "cancel", "wait")
    listed = forms.add_parser("list", help="list tasks, the oldest first; each attempt is one")
    listed.add_argument("--session", default="", metavar="SESSION", help="only of this session")
    listed.add_argument("--status", action="append", default=[], metavar="STATUS",
                        help="only with this status (SUBMITTED, PROCESSING, COMPLETED, ERROR, ...); repeatable")
    listed.add_argument("--limit", type=int, default=0, metavar="N", help="so many at most [all]")
    show = forms.add_parser("show", help="show a task: options, results, dependencies, attempts, output")
    why = forms.add_parser("why", help="say why a task does not run, or what it does instead")
    get = forms.add_parser("get", help="write a task's result to a file or the standard output, as soon as it is there")
    add_file_flag(get)
    cancel = forms.add_parser("cancel", help="cancel tasks")
    wait = forms.add_parser("wait", help="wait until tasks have ended; the status is 1 if one failed")
    for form in (get, wait):
        add_timeout_flag(form)
    for form in (show, why, get):
        form.add_argument("task", metavar="TASK", help="its id")
    get.add_argument("result", metavar="KEY", nargs="?", help="which, where it has several results")
    for form in (cancel, wait):
        form.add_argument("tasks", metavar="TASK", nargs="+", help="ids")
    for form in (listed, show, why):
        add_output_flag(form)
    for form in forms.choices.values():
        add_server_flags(form)


def run(options: argparse.Namespace) -> int:
    """Do what the form says."""
    forms = {"list": _list, "show": _show, "why": _why, "get": _get, "cancel": _cancel, "wait": _wait}
    return forms[options.form](options)


def _list(options: argparse.Namespace) -> int:
    from runtime import wire
    from runtime.cli.listing import as_json, date, table
    from runtime.cli.task_plane import asked, pages
    from runtime.errors import InvalidArgument

    if options.limit < 0:
        raise InvalidArgument(f"--limit must be 0 or more, got {options.limit}")
    message = wire.runtime_v1.ListTasksRequest(session_id=options.session, status=options.status)
    tasks = asked(
        options,
        lambda client: pages(client, "ListTasks", message, wire.runtime_v1.ListTasksReply, "task", options.limit),
    )
    if options.output == "json":
        print(as_json([_summary(task) for task in tasks]))
        return 0
    rows = [
        (task.task_id, task.session_id, task.status, str(task.priority), date(task.submitted_s), _in_a_line(task))
        for task in tasks
    ]
    print(table(("TASK", "SESSION", "STATUS", "PRIORITY", "SUBMITTED", "OUTPUT"), rows))
    return 0


def _show(options: argparse.Namespace) -> int:
    from runtime.cli.listing import as_json, date, table
    from runtime.cli.task_plane import asked

    detail = asked(options, lambda client: _detail(client, options.task))
    if options.output == "json":
        print(as_json(_plain(detail)))
        return 0
    task, how = detail.task, detail.options
    facts = [
        ("task", task.task_id), ("session", task.session_id), ("status", task.status), ("owner", task.owner),
        ("parent", detail.parent_id), ("priority", str(how.priority)), ("retries", str(how.max_retries)),
        ("may take", f"{how.max_duration_s:g} s"), ("payload", f"{detail.payload_bytes} bytes"),
        ("created", date(task.created_s)), ("started", date(task.started_s)), ("ended", date(task.ended_s)),
        *((f"option {name}", value) for name, value in sorted(how.options.items())),
    ]
    print("\n".join(f"{name + ':':<10} {value}" for name, value in facts if value))
    for title, results in (("RESULT", detail.result), ("DEPENDENCY", detail.dependency)):
        if results:
            found = [(one.key, one.status, one.owner_id, one.owner_status, str(one.bytes)) for one in results]
            print("\n" + table((title, "STATUS", "TASK", "WHICH IS", "BYTES"), found))
    if len(detail.attempt) > 1:
        rows = [(one.task_id, one.status, date(one.ended_s), _in_a_line(one)) for one in detail.attempt]
        print("\n" + table(("ATTEMPT", "STATUS", "ENDED", "OUTPUT"), rows))
    if task.error:
        print(f"\n{task.error}")
    return 0


def _why(options: argparse.Namespace) -> int:
    from runtime.cli.listing import as_json
    from runtime.cli.task_plane import asked

    detail = asked(options, lambda client: _detail(client, options.task))
    newest = detail.attempt[-1]
    if options.output == "json":
        print(as_json({"task_id": newest.task_id, "status": newest.status, "why": list(detail.why)}))
        return 0
    print(f"{newest.task_id} is {newest.status}")
    for reason in detail.why:
        print(f"- {reason}")
    return 0


def _get(options: argparse.Namespace) -> int:
    from runtime.cli.task_plane import asked, write_result
    from runtime.errors import InvalidArgument

    async def get(client: AsyncTaskClient) -> None:
        detail = await _detail(client, options.task)
        keys = [result.key for result in detail.result]
        key = options.result if options.result is not None or len(keys) != 1 else keys[0]
        if key not in keys:
            what = f"no result {key!r}; it has" if key is not None else "several results; name one:"
            raise InvalidArgument(f"task {options.task!r} has {what} {', '.join(keys)}")
        await write_result(client, detail.task.session_id, key, options)

    asked(options, get)
    return 0


def _cancel(options: argparse.Namespace) -> int:
    from runtime.cli.task_plane import asked

    async def cancel(client: AsyncTaskClient) -> list[str]:
        from runtime import wire
        from runtime.tasks.model import TaskStatus

        # The call itself says nothing of ids that do not exist.
        for task in options.tasks:
            await _detail(client, task)
        chosen = wire.armonik.TaskFilter(task=wire.armonik.TaskFilter.IdsRequest(ids=options.tasks))
        await client.submitter("CancelTasks", chosen, wire.armonik.Empty)
        found = [(await _detail(client, task)).attempt[-1].status for task in options.tasks]
        canceled = (TaskStatus.CANCELING.name, TaskStatus.CANCELED.name)
        return [
            f"canceled {task}" if status in canceled else f"{task} is {status} and stays so"
            for task, status in zip(options.tasks, found, strict=True)
        ]

    print("\n".join(asked(options, cancel)))
    return 0


def _wait(options: argparse.Namespace) -> int:
    from runtime.cli.task_plane import asked

    async def ended(client: AsyncTaskClient) -> int:
        from runtime.tasks.model import TaskStatus

        failed = 0
        for task in options.tasks:
            detail = await _detail(client, task)
            keys = tuple(result.key for result in detail.result)
            handle = client.attach(detail.task.session_id).handle(task, keys)
            await handle.wait(options.timeout)
            failure = handle.failure
            status = TaskStatus.COMPLETED.name if failure is None else failure.status
            # One that made less than it was to is COMPLETED, too.
            what = f": {failure.details}" if failure is not None and status == TaskStatus.COMPLETED.name else ""
            print(f"{task} {status}{what}", flush=True)
            failed += failure is not None
        return failed

    return int(asked(options, ended) > 0)


async def _detail(client: AsyncTaskClient, task: str) -> Any:
    from runtime import wire
    from runtime.cli.task_plane import inspect

    return await inspect(client, "GetTask", wire.runtime_v1.GetTaskRequest(task_id=task), wire.runtime_v1.TaskDetail)


def _plain(detail: Any) -> dict[str, Any]:
    from runtime.cli.status import plain

    table = plain(detail)
    table["options"]["options"] = dict(detail.options.options)
    table["why"] = list(detail.why)
    return table


def _in_a_line(task: Any) -> str:
    """Return what says most of a task's error: of a traceback the last line, of other texts the first one."""
    lines: list[str] = task.error.strip().split("\n")
    return lines[-1] if lines[0].startswith("Traceback ") else lines[0]


def _summary(task: Any) -> dict[str, Any]:
    from runtime.cli.status import plain

    return plain(task)
