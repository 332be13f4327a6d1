"""Cluster and task from TF_CONFIG, as programs of TensorFlow's have it in their environment."""

from __future__ import annotations

import json
from typing import Any

import pytest

import runtime
from runtime.config import load
from runtime.errors import Internal, InvalidArgument
from runtime.local_cluster.ports import HeldPort

CLUSTER = {"ps": ["localhost:3000"], "worker": ["localhost:3001", "localhost:3002"]}


def config(**task: Any) -> str:
    """Return the text of TF_CONFIG for a task of the cluster."""
    return json.dumps({"cluster": CLUSTER, "task": task, "environment": "cloud", "job": {"anything": 1}})


def loaded(text: str, flags: dict[str, Any] | None = None, **environment: str) -> Any:
    """Return what a server with this variable would use."""
    return load(flags, {"TF_CONFIG": text, **environment}, user_file=False)


def test_cluster_and_task_come_from_the_variable() -> None:
    found = loaded(config(type="worker", index=1))
    assert (found.settings.job_name, found.settings.task_index) == ("worker", 1)
    assert found.settings.listen == "localhost:3002"
    assert json.loads(found.settings.cluster)["ps"] == {"0": "localhost:3000"}
    assert {found.origins[name] for name in ("cluster", "job_name", "task_index")} == {"TF_CONFIG"}
    assert loaded(config(type="worker", index="1")).settings.task_index == 1
    assert loaded(config(type="ps")).settings.listen == "localhost:3000", "a task without an index is the first"


def test_flags_and_variables_of_ours_win_one_by_one() -> None:
    text = config(type="worker", index=0)
    assert loaded(text, {"task_index": 1}).settings.listen == "localhost:3002"
    assert loaded(text, TENSOR_RUNTIME_TASK_INDEX="1").settings.listen == "localhost:3002"
    assert loaded(text, {"listen": "127.0.0.1:0"}).settings.listen == "127.0.0.1:0"
    other = loaded(text, {"cluster": {"worker": ["localhost:4000"]}})
    assert (other.settings.listen, other.origins["cluster"], other.origins["job_name"]) == (
        "localhost:4000", "--cluster", "TF_CONFIG")
    ps = loaded(text, {"job_name": "ps", "task_index": 0}).settings
    assert (ps.job_name, ps.task_index, ps.listen) == ("ps", 0, "localhost:3000")


@pytest.mark.parametrize("text", ["", "{}", '{"cluster": {}}', '{"task": {"type": "worker", "index": 3}}'])
def test_without_a_cluster_it_means_nothing(text: str) -> None:
    found = loaded(text)
    assert (found.settings.cluster, found.settings.job_name, found.settings.task_index) == (None, "local", 0)
    assert found.origins["task_index"] == found.origins["job_name"] == "default"


def test_what_contradicts_itself_names_both_origins() -> None:
    with pytest.raises(InvalidArgument, match=r"task_index: 1 \(from TF_CONFIG\) belongs to its job 'worker', but "
                                              r"job_name is 'ps' \(from --job\)"):
        loaded(config(type="worker", index=1), {"job_name": "ps"})
    with pytest.raises(InvalidArgument, match=r'Task 2 was not defined in job "worker" \(cluster is from TF_CONFIG, '
                                              r"job_name is from TF_CONFIG, task_index is from --task\)"):
        loaded(config(type="worker", index=1), {"task_index": 2})
    with pytest.raises(Internal, match=r'Job "worker" was not defined in cluster \(cluster is from --cluster, job_name '
                                       r"is from TF_CONFIG, task_index is from TF_CONFIG\)"):
        loaded(config(type="worker", index=0), {"cluster": {"other": ["localhost:1"]}})


@pytest.mark.parametrize("text, part", [
    ("{", "TF_CONFIG is not valid JSON"),
    ("[]", "TF_CONFIG is no JSON object"),
    ('{"cluster": []}', r"TF_CONFIG has cluster \[\]"),
    ('{"cluster": {"w": ["nonsense"]}}', 'TF_CONFIG: Could not interpret "nonsense" as a host-port pair'),
    ('{"cluster": {"w": ["a:1"]}, "task": "w"}', "TF_CONFIG has task 'w'"),
    ('{"cluster": {"w": ["a:1"]}, "task": {"type": 3}}', "TF_CONFIG has task.type 3"),
    ('{"cluster": {"w": ["a:1"]}, "task": {"type": "w", "index": -1}}', "TF_CONFIG has task.index -1"),
    ('{"cluster": {"w": ["a:1"]}, "task": {"type": "w", "index": true}}', "TF_CONFIG has task.index True"),
    ('{"cluster": {"w": ["a:1"]}, "rpc_layer": "verbs"}', "rpc_layer 'verbs'"),
])
def test_what_cannot_be_meant_is_refused(text: str, part: str) -> None:
    with pytest.raises(InvalidArgument, match=part):
        loaded(text)


def test_a_server_in_a_program_is_the_task(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = HeldPort(), HeldPort()
    try:
        cluster = {"chief": [one.address], "worker": [two.address]}
        monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": {"type": "worker", "index": 0}}))
        with runtime.Server() as worker, runtime.Server(job_name="chief", task_index=0) as chief:
            assert (worker.address, chief.address) == (two.address, one.address)
            with runtime.Session(chief.target) as session:
                assert {device.name for device in session.list_devices()} == {
                    f"/job:{job}/replica:0/task:0/device:CPU:0" for job in cluster}
            with runtime.Server(cluster="") as alone:
                assert alone.settings.cluster is None and alone.settings.job_name == "local"
                assert alone.address not in (one.address, two.address)
    finally:
        one.close()
        two.close()


def test_it_is_what_a_local_cluster_gives_its_clients() -> None:
    with runtime.Cluster(workers=1, ps=1, services=("graph",)) as cluster:
        found = loaded(cluster.tf_config("worker", 0)).settings
        assert f"grpc://{found.listen}" == cluster.target
