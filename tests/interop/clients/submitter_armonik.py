"""A client written with the published package, which knows nothing of our server: sys.argv[1] is HOST:PORT."""

import sys
import threading
import time
import warnings
from datetime import timedelta

warnings.simplefilter("ignore")

import grpc  # noqa: E402
from armonik.client.submitter import ArmoniKSubmitter  # noqa: E402
from armonik.common import TaskDefinition, TaskOptions, TaskStatus  # noqa: E402
from armonik.protogen.client import submitter_service_pb2_grpc  # noqa: E402
from armonik.protogen.common import objects_pb2, submitter_common_pb2, task_status_pb2  # noqa: E402

with grpc.insecure_channel(sys.argv[1]) as channel:
    client = ArmoniKSubmitter(channel)
    assert client.get_service_configuration().data_chunk_max_size == 84000
    options = TaskOptions(timedelta(seconds=60), priority=1, max_retries=1, partition_id="default")
    session = client.create_session(options)

    large = b"echo " + bytes(range(256)) * 1000
    tasks, failed = client.submit(session, [
        TaskDefinition(b"echo hello", expected_output_ids=["hello"]),
        TaskDefinition(large, expected_output_ids=["large"]),
        TaskDefinition(b"join", expected_output_ids=["joined"], data_dependencies=["hello", "hello", "large"]),
        TaskDefinition(b"raise broken", expected_output_ids=["broken"]),
    ])
    assert failed == [] and len({task.id for task in tasks}) == 4
    assert [task.expected_output_ids for task in tasks] == [["hello"], ["large"], ["joined"], ["broken"]]
    ids = [task.id for task in tasks]
    assert client.list_tasks(session_ids=[session])[:4] == ids

    assert not client.wait_for_availability(session, "hello").errors
    assert bytes(client.get_result(session, "hello")) == b"hello"
    assert not client.wait_for_availability(session, "joined").errors
    assert bytes(client.get_result(session, "joined")) == b"hello+" + large[5:]
    errors = client.wait_for_availability(session, "broken").errors
    assert any("RuntimeError: broken" in error for error in errors), errors
    counts = client.wait_for_completion(session_ids=[session])
    assert counts == {TaskStatus.COMPLETED: 3, TaskStatus.ERROR: 2}, counts
    found = client.get_task_status(ids)
    assert [found[id] for id in ids] == [TaskStatus.COMPLETED] * 3 + [TaskStatus.ERROR]
    assert client.list_tasks(session_ids=[session], excluded_statuses=[TaskStatus.COMPLETED])[0] == ids[3]

    try:
        client.submit(session, [TaskDefinition(b"x", expected_output_ids=["hello"])])
    except Exception as error:
        assert "'hello'" in str(error), error
    else:
        raise AssertionError("a key that is in use was taken again")

    # Statuses whose numbers are others than in the older package: a task that runs, and is canceled.
    endless = TaskDefinition(b"wait " + sys.argv[2].encode(), expected_output_ids=["never"])
    (running,), _ = client.submit(session, [endless])
    deadline = time.monotonic() + 60
    while client.get_task_status([running.id])[running.id] != TaskStatus.PROCESSING:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert client.list_tasks(session_ids=[session], included_statuses=[TaskStatus.PROCESSING]) == [running.id]
    assert client.get_result(session, "never") is None
    waited = []
    thread = threading.Thread(target=lambda: waited.append(client.wait_for_availability(session, "never")))
    thread.start()
    client.cancel_session(session)
    thread.join(60)
    assert waited and waited[0].errors is not None
    counts = client.wait_for_completion(session_ids=[session])
    assert counts == {TaskStatus.COMPLETED: 3, TaskStatus.ERROR: 2, TaskStatus.CANCELLED: 1}, counts

    # Calls that the package has, and its client class makes none of.
    stub = submitter_service_pb2_grpc.SubmitterStub(channel)
    assert session in stub.ListSessions(submitter_common_pb2.SessionFilter()).session_ids
    second = client.create_session(options)
    session_filter = submitter_common_pb2.TaskFilter(session=submitter_common_pb2.TaskFilter.IdsRequest(ids=[second]))
    small = submitter_common_pb2.CreateSmallTaskRequest(session_id=second, task_options=options.to_message())
    for key, payload, needs in (("small", b"echo small", []), ("bad", b"fail so it is", []), ("held", b"x", ["none"])):
        small.task_requests.add(expected_output_keys=[key], payload=payload, data_dependencies=needs)
    made = [one.task_info.task_id for one in stub.CreateSmallTasks(small).creation_status_list.creation_statuses]
    assert len(set(made)) == 3
    for key in ("small", "bad"):
        client.wait_for_availability(second, key)
    outputs = [stub.TryGetTaskOutput(objects_pb2.TaskOutputRequest(session=second, task_id=id)) for id in made]
    assert [output.WhichOneof("type") for output in outputs] == ["ok", "error", "error"], outputs
    assert outputs[1].error.details == "so it is"
    stub.CancelTasks(submitter_common_pb2.TaskFilter(task=submitter_common_pb2.TaskFilter.IdsRequest(ids=made[2:])))
    counts = {entry.status: entry.count for entry in stub.CountTasks(session_filter).values}
    assert counts == {
        task_status_pb2.TASK_STATUS_COMPLETED: 1, task_status_pb2.TASK_STATUS_ERROR: 1,
        task_status_pb2.TASK_STATUS_CANCELLED: 1,
    }, counts
    keys = ["small", "bad", "held", "none"]
    request = submitter_common_pb2.GetResultStatusRequest(session_id=second, result_ids=keys)
    found = {entry.result_id: entry.status for entry in stub.GetResultStatus(request).id_statuses}
    assert found == {"small": 2, "bad": 3, "held": 3}, found  # COMPLETED, ABORTED; what nobody makes is not there
print("done")
