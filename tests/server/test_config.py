from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from runtime import config
from runtime.errors import Internal, InvalidArgument


def load(flags=None, environment=None, file=None, **more):  # type: ignore[no-untyped-def]
    return config.load(flags, environment or {}, file, **{"user_file": False, **more})


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    path = tmp_path / "settings.toml"
    path.write_text('listen = "127.0.0.1:3"\ngrace_s = 3\nlog_format = "json"\nservices = ["graph", "task"]\n')
    return path


def test_flag_beats_environment_beats_file_beats_default(toml: Path) -> None:
    loaded = load(
        {"listen": "127.0.0.1:1"},
        {"TENSOR_RUNTIME_LISTEN": "127.0.0.1:2", "TENSOR_RUNTIME_GRACE_S": "2"},
        toml,
    )
    settings, origins = loaded.settings, loaded.origins
    assert (settings.listen, origins["listen"]) == ("127.0.0.1:1", "--listen")
    assert (settings.grace_s, origins["grace_s"]) == (2.0, "TENSOR_RUNTIME_GRACE_S")
    assert (settings.log_format, origins["log_format"]) == ("json", str(toml))
    assert (settings.log_level, origins["log_level"]) == ("info", "default")
    assert settings.services == ("graph", "task")


def test_defaults_of_a_caller_are_weaker_than_the_file(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text('malloc = "default"')
    assert load(file=path, defaults=config.SERVE_DEFAULTS).settings.malloc == "default"
    loaded = load(defaults=config.SERVE_DEFAULTS)
    assert (loaded.settings.malloc, loaded.origins["malloc"]) == ("tuned", "default")
    assert load().settings.malloc == "default"


def test_environment_names_the_file(toml: Path) -> None:
    assert load(environment={"TENSOR_RUNTIME_CONFIG": str(toml)}).settings.grace_s == 3


def test_users_file_is_read_when_it_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert config.load({}, {}).settings.grace_s == 30
    config.default_config_file().parent.mkdir()
    config.default_config_file().write_text("grace_s = 7")
    assert config.load({}, {}).settings.grace_s == 7
    assert load().settings.grace_s == 30


@pytest.mark.parametrize(
    "flags, environment, parts",
    [
        (
            {"services": "grph"},
            {},
            ["services", "'grph'", "--services", "graph, task, command", "did you mean 'graph'"],
        ),
        ({}, {"TENSOR_RUNTIME_LOG_LEVEL": "loud"}, ["log_level", "'loud'", "TENSOR_RUNTIME_LOG_LEVEL", "debug, info"]),
        ({"task_index": "-1"}, {}, ["task_index", "'-1'", "--task", "from 0 to"]),
        ({"grace_s": "soon"}, {}, ["grace_s", "'soon'", "--grace", "seconds"]),
        ({"grace_s": "nan"}, {}, ["grace_s", "'nan'", "--grace", "seconds"]),
        ({"max_bytes_in_flight": "4 parsecs"}, {}, ["max_bytes_in_flight", "4 parsecs", "512MiB"]),
        ({"max_bytes_in_flight": "0"}, {}, ["max_bytes_in_flight", "'0'", "positive"]),
        ({"listen": "2222"}, {}, ["listen", "'2222'", "HOST:PORT"]),
        ({"listen": "h:65536"}, {}, ["listen", "65535"]),
        ({"listen": "::1:80"}, {}, ["listen", "[HOST]:PORT"]),
        ({"listen": "unix:"}, {}, ["listen", "unix:PATH"]),
        ({"listen": "unix:/" + "x" * 200}, {}, ["listen", "107 bytes"]),
        ({}, {"TENSOR_RUNTIME_INSECURE": "maybe"}, ["insecure", "'maybe'", "TENSOR_RUNTIME_INSECURE", "true or false"]),
        ({"loop": "trio"}, {}, ["loop", "'trio'", "auto, uvloop, asyncio"]),
        ({"cluster": "{"}, {}, ["cluster", "--cluster", "not valid JSON"]),
        ({"cluster": "/nowhere/at.all"}, {}, ["cluster", "cannot be read"]),
        ({"cluster": '{"w": ["a:1"], "w": ["b:1"]}'}, {}, ["Duplicate job ID in cluster specification: w"]),
        ({"cluster": '{"w": ["nonsense"]}'}, {}, ['Could not interpret "nonsense" as a host-port pair.']),
    ],
)
def test_error_names_key_value_origin_and_what_is_allowed(
    flags: dict[str, str], environment: dict[str, str], parts: list[str]
) -> None:
    with pytest.raises(config.ConfigError) as caught:
        load(flags, environment)
    for part in parts:
        assert part in str(caught.value)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.key) == (str(caught.value), caught.value.key)


def test_error_in_the_file_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text("grace_s = true")
    with pytest.raises(config.ConfigError, match=rf"grace_s: True \(from {path}\)"):
        load(file=path)


def test_unknown_key_in_the_file_suggests_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "s.toml"
    path.write_text('token_fle = "x"')
    with pytest.raises(InvalidArgument, match=rf"{path}: no setting is called 'token_fle'; did you mean 'token_file'"):
        load(file=path)


def test_unknown_argument_suggests_the_nearest() -> None:
    with pytest.raises(InvalidArgument, match="did you mean 'token_file'"):
        load({"tokenfile": "x"})


@pytest.mark.parametrize("text", ["grace_s 3", "grace_s = 3\ngrace_s = 4", "\xff"])
def test_file_that_is_not_toml_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "s.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InvalidArgument, match=str(path)):
        load(file=path)


def test_named_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="cannot be read"):
        load(file=tmp_path / "absent.toml")


@pytest.mark.parametrize(
    "text, nbytes",
    [("1", 1), ("10b", 10), ("2k", 2048), ("3KiB", 3072), ("1.5MB", 1572864), ("4GiB", 4 << 30), ("1 t", 1 << 40)],
)
def test_sizes(text: str, nbytes: int) -> None:
    assert config.parse_size(text) == nbytes


def test_services_keep_one_order_and_all_means_all() -> None:
    assert load({"services": "task,graph"}).settings.services == ("graph", "task")
    assert load({"services": "all"}).settings.services == config.ALL_SERVICES
    assert load({"services": ["fleet"]}).settings.services == ("fleet",)


def test_unix_address_has_one_spelling() -> None:
    assert load({"listen": "unix:///run/x"}).settings.listen == "unix:/run/x"


def test_mistyped_variable_is_pointed_out() -> None:
    sentences = config.unknown_variables({"TENSOR_RUNTIME_LISTN": "x", "TENSOR_RUNTIME_PEER_PYTHON": "y", "HOME": "z"})
    assert sentences == ["environment variable TENSOR_RUNTIME_LISTN is no setting; did you mean TENSOR_RUNTIME_LISTEN?"]


CLUSTER = '{"ps": ["localhost:3000"], "worker": {"2": "localhost:3002"}}'


def test_cluster_gives_the_address_of_the_task() -> None:
    loaded = load({"cluster": CLUSTER, "job_name": "worker", "task_index": 2})
    assert loaded.settings.listen == "localhost:3002"
    assert loaded.origins["listen"] == "cluster, /job:worker/task:2"
    asked = load({"cluster": CLUSTER, "job_name": "ps", "listen": "127.0.0.1:0"})
    assert asked.settings.listen == "127.0.0.1:0"


def test_cluster_comes_from_a_file_or_a_table(tmp_path: Path) -> None:
    path = tmp_path / "cluster.json"
    path.write_text(CLUSTER)
    from_file = load({"cluster": str(path), "job_name": "ps"}).settings.cluster
    toml = tmp_path / "s.toml"
    toml.write_text('job_name = "ps"\n[cluster]\nps = ["localhost:3000"]\nworker = {"2" = "localhost:3002"}\n')
    assert load(file=toml).settings.cluster == from_file


def test_task_outside_the_cluster_is_refused_in_tensorflows_words() -> None:
    with pytest.raises(Internal, match='^Job "chief" was not defined in cluster$'):
        load({"cluster": CLUSTER, "job_name": "chief"})
    with pytest.raises(InvalidArgument, match='^Task 1 was not defined in job "worker"$'):
        load({"cluster": CLUSTER, "job_name": "worker", "task_index": 1})
