"""Configuration files of workers."""

import logging
import re
import sys
from math import inf
from pathlib import Path
from typing import Any

import pytest

from leaseq.tasks import (
    QueueSettings,
    RedisSettings,
    TaskQueue,
    TaskWorker,
    WorkerConfig,
    WorkerSettings,
)

YAML = """
redis:
  host: "localhost"
  port: 6379
  db: 0

workers:
  - id: "worker-001"
    assigned_users: ["user:1", "user:3", "user:5"]
    steal_targets: ["user:2", "user:4", "user:6"]
    poll_interval_seconds: 1.0
    max_concurrent_tasks: 20
  - id: "worker-002"
    assigned_users: ["user:2", "user:4", "user:6"]
    steal_targets: ["user:1", "user:3", "user:5"]
    poll_interval_seconds: 1.0

queue:
  stats_prefix: "fq"
  default_max_retries: 5
  enable_pipeline_optimization: true
  xcom_ttl_seconds: 1800
"""

TOML = """
url = "valkey://localhost:6379/0"

[[workers]]
id = "worker-001"
assigned_users = ["user:1"]
task_timeout_seconds = 30
graceful_shutdown_timeout = 5.5

[queue]
default_max_retries = 5
"""


def file(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_file_of_fairqueue_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "leaseq"):
        config = WorkerConfig.from_yaml(file(tmp_path, "workers.yaml", YAML))
    assert [worker.id for worker in config.workers] == ["worker-001", "worker-002"]
    first = config.worker("worker-001")
    assert first.assigned_users == ("user:1", "user:3", "user:5")
    assert first.steal_targets == ("user:2", "user:4", "user:6")
    assert (first.max_concurrent_tasks, config.worker("worker-002").max_concurrent_tasks) == (
        20,
        10,
    )
    assert (first.task_timeout_seconds, first.graceful_shutdown_timeout) == (None, inf)
    assert config.broker_url == "redis://localhost:6379/0"
    assert repr(config) == "<WorkerConfig of worker-001, worker-002>"
    messages = sorted(record.getMessage() for record in caplog.records)
    assert [message.split(" has no meaning here: ")[0] for message in messages] == [
        "the setting queue.enable_pipeline_optimization",
        "the setting queue.stats_prefix",
        "the setting workers[0].poll_interval_seconds",
        "the setting workers[1].poll_interval_seconds",
    ]
    assert messages[-1].endswith("workers do not poll: a push wakes a waiting worker")


def test_toml_says_the_same(tmp_path: Path) -> None:
    config = WorkerConfig.from_file(file(tmp_path, "workers.toml", TOML))
    worker = config.worker()
    assert (worker.id, worker.assigned_users) == ("worker-001", ("user:1",))
    assert (worker.task_timeout_seconds, worker.graceful_shutdown_timeout) == (30, 5.5)
    assert config.broker_url == "valkey://localhost:6379/0"


@pytest.mark.parametrize("name", ["workers.yaml", "workers.YML"])
def test_the_kind_of_file_is_told_by_its_name(tmp_path: Path, name: str) -> None:
    assert len(WorkerConfig.from_file(file(tmp_path, name, YAML)).workers) == 2
    with pytest.raises(ValueError, match=r"a configuration is a .yaml, .yml or .toml file"):
        WorkerConfig.from_file(tmp_path / "workers.json")


def test_defaults_are_set_on_the_queue() -> None:
    tasks = TaskQueue()
    TaskWorker.from_config(tasks, WorkerConfig.create_default("one"))
    assert (tasks.max_retries, tasks.xcom_ttl) == (3, 3600.0)
    queue = {"default_max_retries": 5, "xcom_ttl_seconds": 60}
    config = WorkerConfig.from_dict({"workers": [{"id": "one"}], "queue": queue})
    TaskWorker.from_config(tasks, config)
    assert (tasks.max_retries, tasks.xcom_ttl) == (5, 60.0)


def test_one_worker_needs_no_file() -> None:
    config = WorkerConfig.create_default(
        "one", ["user:1"], ["user:2"], url="valkey://localhost:6379"
    )
    assert config.worker().steal_targets == ("user:2",)
    assert config.broker_url == "valkey://localhost:6379"
    assert WorkerConfig.create_default("one").broker_url is None


@pytest.mark.parametrize(
    ("workers", "place"),
    [
        ([{}], "missing required field `id` - at `$.workers[0]`"),
        ([{"id": 1}], "Expected `str`, got `int` - at `$.workers[0].id`"),
        ([{"id": ""}], "length >= 1 - at `$.workers[0].id`"),
        ([{"id": "a", "max_concurrent_tasks": 0}], "at `$.workers[0].max_concurrent_tasks`"),
        ([{"id": "a", "task_timeout_seconds": 0}], "at `$.workers[0].task_timeout_seconds`"),
        ([{"id": "a", "colour": 1}], "unknown field `colour` - at `$.workers[0]`"),
        ([{"id": "a", "assigned_users": "b"}], "got `str` - at `$.workers[0].assigned_users`"),
        ([{"id": "a", "steal_targets": ["b"]}], "worker 'a' has steal_targets and no assigned"),
        ([{"id": "a"}, {"id": "a"}], "two workers have the id 'a': each needs an id of its own"),
        ("a", "Expected `array`, got `str` - at `$.workers`"),
    ],
)
def test_an_error_in_a_worker_names_its_place(workers: Any, place: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        WorkerConfig.from_dict({"workers": workers})
    assert place in str(caught.value)


@pytest.mark.parametrize(
    ("data", "place"),
    [
        (None, "Expected `object`, got `null`"),
        ({}, "missing required field `workers`"),
        ({"workers": [], "redis": {"port": 0}}, "at `$.redis.port`"),
        ({"workers": [], "redis": {"port": "secret"}}, "got `str` - at `$.redis.port`"),
        ({"workers": [], "redis": {}, "url": "redis://:secret@h"}, "leave one of them out"),
        ({"workers": [], "queue": {"xcom_ttl_seconds": -1}}, "at `$.queue.xcom_ttl_seconds`"),
    ],
)
def test_an_error_elsewhere_names_its_place_and_no_secret(data: Any, place: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        WorkerConfig.from_dict(data)
    assert place in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "error"),
    [
        (
            "a.yaml",
            "redis:\n  password: secret: [",
            "line 2, column 19: mapping values are not allowed",
        ),
        ("a.yaml", "\x00", "this is not YAML"),
        ("a.toml", "password = secret", "this is not TOML: Invalid value (at line 1, column 12)"),
        ("a.toml", "workers = 1", "Expected `array`, got `int` - at `$.workers`"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_the_place_and_no_secret(
    tmp_path: Path, name: str, text: str, error: str
) -> None:
    path = file(tmp_path, name, text)
    with pytest.raises(ValueError, match=r".") as caught:
        WorkerConfig.from_file(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert error in str(caught.value)
    assert "secret" not in str(caught.value)


def test_without_pyyaml_the_error_says_what_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(
        ValueError, match=r"reading YAML needs pyyaml: pip install 'leaseq\[tasks\]'"
    ):
        WorkerConfig.from_file(file(tmp_path, "a.yaml", YAML))


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="this is not TOML: it is not UTF-8"):
        WorkerConfig.from_file(path)


def test_a_worker_is_found_by_its_id() -> None:
    config = WorkerConfig.from_dict({"workers": [{"id": "a"}, {"id": "b"}]})
    with pytest.raises(LookupError, match="say which worker to be: the configuration has 'a', 'b'"):
        config.worker()
    with pytest.raises(LookupError, match="there is no worker 'c': the configuration has 'a', 'b'"):
        config.worker("c")
    with pytest.raises(LookupError, match="say which worker to be: the configuration has no work"):
        WorkerConfig.from_dict({"workers": []}).worker()


def test_a_server_in_parts_is_a_url() -> None:
    settings = RedisSettings("::1", 6380, 2, "me", "p@ss/word", ssl=True)
    assert settings.url == "rediss://me:p%40ss%2Fword@[::1]:6380/2"
    assert repr(settings) == "<RedisSettings ::1:6380/2>"
    assert RedisSettings(password="word").url == "redis://:word@localhost:6379/0"


def test_no_secret_is_shown() -> None:
    config = WorkerConfig.from_dict({"workers": [], "redis": {"password": "secret"}})
    assert "secret" not in repr((config, config.redis))
    with pytest.raises(AttributeError):
        config.url = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (WorkerSettings, {"id": 1}, "id: Expected `str`, got `int`"),
        (WorkerSettings, {"id": "a", "max_concurrent_tasks": 0}, "max_concurrent_tasks: Expected"),
        (WorkerSettings, {"id": "a", "assigned_users": "b"}, "assigned_users: Expected `array`"),
        (RedisSettings, {"port": "6379"}, "port: Expected `int`, got `str`"),
        (RedisSettings, {"password": 1}, "password: Expected `str | null`, got `int`"),
        (QueueSettings, {"default_max_retries": 2.5}, "default_max_retries: Expected `int | null`"),
        (WorkerConfig, {"workers": [{"id": 1}]}, r"workers: Expected `str`, got `int`"),
        (WorkerConfig, {"workers": (), "redis": "localhost"}, "redis: Expected `object | null`"),
    ],
)
def test_settings_made_by_hand_are_checked_too(kind: Any, settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        kind(**settings)


def test_settings_made_by_hand_take_lists_and_their_own_kind() -> None:
    worker = WorkerSettings("one", assigned_users=["user:1"])  # type: ignore[arg-type]
    config = WorkerConfig([worker], redis=RedisSettings())  # type: ignore[arg-type]
    assert worker.assigned_users == ("user:1",)
    assert config.workers == (worker,)
    assert config.broker_url == "redis://localhost:6379/0"


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("workers: []\nurl: a\nworkers: []\n", "the key 'workers' is there twice, at line 3, col"),
        ("workers:\n- id: one\n  id: two\n", "the key 'id' is there twice, at line 3, column 3"),
        ("workers: [{id: one, 'id': secret}]", "the key 'id' is there twice, at line 1, column 21"),
    ],
)
def test_a_key_that_is_there_twice_in_yaml_is_refused(
    tmp_path: Path, text: str, where: str
) -> None:
    path = tmp_path / "workers.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(where)) as caught:
        WorkerConfig.from_file(path)
    assert "secret" not in str(caught.value)


def test_what_yaml_shares_by_aliases_and_merges_is_no_key_twice(tmp_path: Path) -> None:
    path = tmp_path / "workers.yaml"
    path.write_text("workers:\n- &one {id: one, max_concurrent_tasks: 3}\n- {<<: *one, id: two}\n")
    assert [worker.id for worker in WorkerConfig.from_file(path).workers] == ["one", "two"]
