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
print("done")
