"""Configuration of workers: a file in YAML or TOML, checked by a schema."""

import tomllib
from collections.abc import Callable, Collection, Mapping, Sequence
from logging import WARNING
from math import inf
from pathlib import Path
from typing import Annotated, Any, Final, Self
from urllib.parse import quote

import msgspec

from .._core.log import log
from .._core.texts import shown

_AtLeastOne = Annotated[int, msgspec.Meta(ge=1)]
_NotNegative = Annotated[int, msgspec.Meta(ge=0)]
_Seconds = Annotated[float, msgspec.Meta(gt=0)]
_Grace = Annotated[float, msgspec.Meta(ge=0)]
_Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
_Name = Annotated[str, msgspec.Meta(min_length=1)]

_SCRIPTS = "the engine brings its own scripts"
_NOT_COUNTED = "the queue keeps its own counts: await tasks.stats()"
_BATCHED = "pushes and settlements are always sent in batches"
_NO_SWEEP = "the queue removes what has ended without a sweep"
_CONNECTION = "the engine manages its own connections"
_MEANINGLESS: Final[Mapping[str, Mapping[str, str]]] = {
    "redis": {
        "decode_responses": _CONNECTION,
        "health_check_interval": _CONNECTION,
        "socket_connect_timeout": _CONNECTION,
        "socket_timeout": _CONNECTION,
    },
    "workers": {"poll_interval_seconds": "workers do not poll: a push wakes a waiting worker"},
    "queue": {
        "stats_prefix": _NOT_COUNTED,
        "stats_aggregation_interval": _NOT_COUNTED,
        "enable_pipeline_optimization": _BATCHED,
        "pipeline_batch_size": _BATCHED,
        "pipeline_timeout": _BATCHED,
        "lua_script_cache_size": _SCRIPTS,
        "queue_cleanup_interval": _NO_SWEEP,
    },
}
"""Settings of FairQueue's files that have no meaning here, with the reason."""


def _check_fields(settings: msgspec.Struct) -> None:
    """Raise `ValueError`, with the name of the field, if one has the wrong type or value.

    A Struct by itself checks its fields only when it is read from data.
    """
    for field in msgspec.structs.fields(type(settings)):
        try:
            value = msgspec.convert(getattr(settings, field.name), field.type)
        except msgspec.ValidationError as error:
            raise ValueError(f"{field.name}: {error}") from None
        msgspec.structs.force_setattr(settings, field.name, value)


class RedisSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The parts of a server's URL.

    Attributes:
        host: Name or address of the server.
        port: Its port.
        db: Number of the database.
        username: Name of the user; None: the default user.
        password: Password of the user; never shown.
        ssl: True for an encrypted connection.

    Raises:
        ValueError: A setting has the wrong type or is out of range.
    """

    host: _Name = "localhost"
    port: _Port = 6379
    db: _NotNegative = 0
    username: str | None = None
    password: str | None = None
    ssl: bool = False

    def __post_init__(self) -> None:
        _check_fields(self)

    def __repr__(self) -> str:
        return f"<RedisSettings {self.host}:{self.port}/{self.db}>"

    @property
    def url(self) -> str:
        """The URL, with the password."""
        user = "" if self.username is None else quote(self.username, safe="")
        word = "" if self.password is None else f":{quote(self.password, safe='')}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        at = "@" if user or word else ""
        return f"{'rediss' if self.ssl else 'redis'}://{user}{word}{at}{host}:{self.port}/{self.db}"


class WorkerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of one worker.

    Attributes:
        id: Name of the worker.
        assigned_users: Tenants whose tasks it runs, in fair turn; empty: all tenants.
        steal_targets: Tenants whose tasks it runs when its own have none.
        max_concurrent_tasks: Tasks that it runs at a time.
        task_timeout_seconds: Longest run of one task, in seconds; None: no bound.
        graceful_shutdown_timeout: Seconds that running tasks get when it is stopped.

    Raises:
        ValueError: A setting has the wrong type or is out of range; there are ``steal_targets``
            without ``assigned_users``.
    """

    id: _Name
    assigned_users: tuple[_Name, ...] = ()
    steal_targets: tuple[_Name, ...] = ()
    max_concurrent_tasks: _AtLeastOne = 10
    task_timeout_seconds: _Seconds | None = None
    graceful_shutdown_timeout: _Grace = inf

    def __post_init__(self) -> None:
        _check_fields(self)
        if self.steal_targets and not self.assigned_users:
            raise ValueError(
                f"worker {shown(self.id)} has steal_targets and no assigned_users: it runs "
                "the tasks of all tenants anyway"
            )


class QueueSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Defaults that a worker sets on its `TaskQueue`; None: left as they are.

    Attributes:
        default_max_retries: The ``max_retries`` of the `TaskQueue`.
        xcom_ttl_seconds: The ``xcom_ttl`` of the `TaskQueue`.

    Raises:
        ValueError: A setting has the wrong type or is out of range.
    """

    default_max_retries: _NotNegative | None = None
    xcom_ttl_seconds: _Seconds | None = None

    def __post_init__(self) -> None:
        _check_fields(self)


class WorkerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The server of the tasks, and the workers that run them. Immutable; shows no password.

    Attributes:
        workers: The workers; each has an id of its own.
        url: URL of the broker, for `leaseq.connect`; None: see ``redis``.
        redis: The parts of the URL; None: see ``url``.
        queue: Defaults of the `TaskQueue`.

    Raises:
        ValueError: A setting has the wrong type; two workers have the same id; there are both a
            URL and its parts.
    """

    workers: tuple[WorkerSettings, ...]
    url: str | None = None
    redis: RedisSettings | None = None
    queue: QueueSettings = QueueSettings()

    def __post_init__(self) -> None:
        _check_fields(self)
        ids = [worker.id for worker in self.workers]
        twice = sorted({each for each in ids if ids.count(each) > 1})
        if twice:
            raise ValueError(
                f"two workers have the id {shown(twice[0])}: each needs an id of its own"
            )
        if self.url is not None and self.redis is not None:
            raise ValueError("there are a url and a redis section: leave one of them out")

    def __repr__(self) -> str:
        return f"<WorkerConfig of {', '.join(worker.id for worker in self.workers)}>"

    @property
    def broker_url(self) -> str | None:
        """The URL of the broker, with the password; None if the configuration has none."""
        return self.redis.url if self.redis is not None else self.url

    def worker(self, id: str | None = None) -> WorkerSettings:
        """Return the settings of one worker.

        Args:
            id: Id of the worker; None: the only one.

        Raises:
            LookupError: There is no such worker, or there are several to choose from.

        O(workers).
        """
        found = [worker for worker in self.workers if id in (None, worker.id)]
        if len(found) == 1:
            return found[0]
        choices = ", ".join(shown(worker.id) for worker in self.workers) or "no workers"
        if id is None:
            raise LookupError(f"say which worker to be: the configuration has {choices}")
        raise LookupError(f"there is no worker {shown(id)}: the configuration has {choices}")

    @classmethod
    def create_default(
        cls,
        worker_id: str,
        assigned_users: Sequence[str] = (),
        steal_targets: Sequence[str] = (),
        *,
        url: str | None = None,
    ) -> Self:
        """Make the configuration of a single worker.

        Args:
            worker_id: Name of the worker.
            assigned_users: Tenants whose tasks it runs, in fair turn; empty: all tenants.
            steal_targets: Tenants whose tasks it runs when its own have none.
            url: URL of the broker; None: it is given elsewhere.

        Raises:
            ValueError: A part has the wrong type or value; the message has its place.

        O(tenants).
        """
        worker = {
            "id": worker_id,
            "assigned_users": _as_list(assigned_users),
            "steal_targets": _as_list(steal_targets),
        }
        return cls.from_dict({"workers": [worker], "url": url})

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """Read a file: ``.yaml`` and ``.yml`` as YAML, ``.toml`` as TOML.

        Args:
            path: Path of the file. It is read synchronously: call this before the event loop runs.

        Raises:
            OSError: The file cannot be read.
            ValueError: It has another suffix; or as `from_dict` does, with the name of the file.

        O(its size).
        """
        readers: dict[str, Callable[[str | Path], Self]] = {
            ".yaml": cls.from_yaml,
            ".yml": cls.from_yaml,
            ".toml": cls.from_toml,
        }
        read = readers.get(Path(path).suffix.lower())
        if read is None:
            raise ValueError(f"{path}: a configuration is a .yaml, .yml or .toml file")
        return read(path)

    @classmethod
    def from_yaml(cls, path: str | Path) -> Self:
        """Read a file in YAML, whatever its suffix: otherwise as `from_file` does."""
        return cls._read(path, _parse_yaml)

    @classmethod
    def from_toml(cls, path: str | Path) -> Self:
        """Read a file in TOML, whatever its suffix: otherwise as `from_file` does."""
        return cls._read(path, _parse_toml)

    @classmethod
    def _read(cls, path: str | Path, parse: Callable[[bytes], Any]) -> Self:
        try:
            return cls.from_dict(parse(Path(path).read_bytes()))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    @classmethod
    def from_dict(cls, data: Any) -> Self:
        """Read the parsed content of a file.

        Settings of FairQueue that have no meaning here are logged, with the reason, and ignored.

        Args:
            data: Mappings, lists and plain values, as a parser of YAML or TOML returns them.

        Raises:
            ValueError: A part has the wrong type or value; the message has its place, such as
                ``$.workers[0].max_concurrent_tasks``, and no value that may be secret.

        O(its size).
        """
        try:
            return msgspec.convert(_without_meaningless(data), cls)
        except msgspec.ValidationError as error:
            raise ValueError(str(error)) from None


def _without_meaningless(data: Any) -> Any:
    if not isinstance(data, dict):
        return data
    kept = dict(data)
    for section, reasons in _MEANINGLESS.items():
        part = kept.get(section)
        if isinstance(part, list):
            kept[section] = [_drop(each, f"{section}[{n}]", reasons) for n, each in enumerate(part)]
        else:
            kept[section] = _drop(part, section, reasons)
            if part is None:
                del kept[section]
    return kept


def _as_list(names: Any) -> Any:
    """Return names as a list; what cannot be some is left to be refused with its place."""
    return list(names) if isinstance(names, Collection) and not isinstance(names, str) else names


def _drop(part: Any, place: str, reasons: Mapping[str, str]) -> Any:
    if not isinstance(part, dict):
        return part
    for name in part.keys() & reasons.keys():
        log(WARNING, "the setting %s.%s has no meaning here: %s", place, name, reasons[name])
    return {name: value for name, value in part.items() if name not in reasons}


def _parse_yaml(data: bytes) -> Any:
    try:
        parsed = msgspec.yaml.decode(data)
        _refuse_keys_that_are_there_twice(data)
        return parsed
    except ImportError:
        raise ValueError("reading YAML needs pyyaml: pip install 'leaseq[tasks]'") from None
    except msgspec.DecodeError as error:
        # Its message quotes the line, and the problem may quote a word: either may be a password.
        mark = getattr(error.__context__, "problem_mark", None)
        problem = getattr(error.__context__, "problem", None)
        where = "" if mark is None else f", at line {mark.line + 1}, column {mark.column + 1}"
        what = "" if problem is None or "'" in problem else f": {problem}"
        raise ValueError(f"this is not YAML{where}{what}") from None


def _refuse_keys_that_are_there_twice(data: bytes) -> None:
    """Raise `ValueError` for a mapping with a key twice, of which YAML takes the second one.

    The message has no value, which may be secret.
    """
    import yaml  # type: ignore[import-untyped]

    left = [yaml.compose(data, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))]
    seen: set[int] = set()  # an alias is the node that it stands for
    while left:
        node = left.pop()
        if id(node) in seen or not isinstance(node, yaml.CollectionNode):
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            left.extend(node.value)
            continue
        keys: set[tuple[str, str]] = set()
        for key, value in node.value:
            name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else None
            if name is not None and name in keys:
                where = f"at line {key.start_mark.line + 1}, column {key.start_mark.column + 1}"
                raise ValueError(f"the key {shown(key.value)} is there twice, {where}")
            if name is not None:
                keys.add(name)
            left.append(value)


def _parse_toml(data: bytes) -> Any:
    try:
        return tomllib.loads(data.decode())
    except UnicodeDecodeError:
        raise ValueError("this is not TOML: it is not UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"this is not TOML: {error}") from None
