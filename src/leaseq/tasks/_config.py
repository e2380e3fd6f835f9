"""The configuration of workers: a file in YAML or TOML, checked by a schema."""

import logging
import tomllib
from collections.abc import Callable, Mapping, Sequence
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Self
from urllib.parse import quote

import msgspec

from .._core.validation import lease_seconds
from ._task import check_retries

if TYPE_CHECKING:
    from ._queue import TaskQueue

__all__ = ["QueueSettings", "RedisSettings", "WorkerConfig", "WorkerSettings"]

logger = logging.getLogger("leaseq")

_AtLeastOne = Annotated[int, msgspec.Meta(ge=1)]
_NotNegative = Annotated[int, msgspec.Meta(ge=0)]
_Seconds = Annotated[float, msgspec.Meta(gt=0)]
_Grace = Annotated[float, msgspec.Meta(ge=0)]
_Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
_Name = Annotated[str, msgspec.Meta(min_length=1)]

_SCRIPTS = "what runs on the server comes with the engine"
_NOT_COUNTED = "the queue counts for itself: await tasks.stats()"
_BATCHED = "pushes and settlements are sent together anyway"
_NO_SWEEP = "the queue cleans up behind itself"
_CONNECTION = "the engine keeps its connections by itself"
_MEANINGLESS: Final[Mapping[str, Mapping[str, str]]] = {
    "redis": {
        "decode_responses": _CONNECTION,
        "health_check_interval": _CONNECTION,
        "socket_connect_timeout": _CONNECTION,
        "socket_timeout": _CONNECTION,
    },
    "workers": {
        "poll_interval_seconds": "nothing is polled: a push wakes the worker that waits for it"
    },
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
"""What a file of FairQueue's may have that says nothing here, and why."""


class RedisSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A server, in parts: what a URL says in one line.

    Attributes:
        host: Its name or address.
        port: Its port.
        db: The number of its database.
        username: Who connects; None: the usual user.
        password: Their password; never shown.
        ssl: Whether the connection is encrypted.
    """

    host: _Name = "localhost"
    port: _Port = 6379
    db: _NotNegative = 0
    username: str | None = None
    password: str | None = None
    ssl: bool = False

    def __repr__(self) -> str:
        return f"<RedisSettings {self.host}:{self.port}/{self.db}>"

    @property
    def url(self) -> str:
        """The URL that says the same, with the password."""
        user = "" if self.username is None else quote(self.username, safe="")
        word = "" if self.password is None else f":{quote(self.password, safe='')}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        at = "@" if user or word else ""
        return f"{'rediss' if self.ssl else 'redis'}://{user}{word}{at}{host}:{self.port}/{self.db}"


class WorkerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One worker.

    Attributes:
        id: What it is called.
        assigned_users: Whose tasks it does, in fair turn; empty: anybody's.
        steal_targets: Whose tasks it does when those have none.
        max_concurrent_tasks: How many tasks it does at a time.
        task_timeout_seconds: Seconds for one task; None: no bound.
        graceful_shutdown_timeout: Seconds for the tasks that run when it is stopped.
    """

    id: _Name
    assigned_users: tuple[_Name, ...] = ()
    steal_targets: tuple[_Name, ...] = ()
    max_concurrent_tasks: _AtLeastOne = 10
    task_timeout_seconds: _Seconds | None = None
    graceful_shutdown_timeout: _Grace = inf

    def __post_init__(self) -> None:
        if self.steal_targets and not self.assigned_users:
            raise ValueError(
                f"worker {self.id!r} has steal_targets and no assigned_users: it would do "
                "anybody's tasks anyway"
            )


class QueueSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a worker's `TaskQueue` takes where its tasks say nothing; None: as it has it.

    Attributes:
        default_max_retries: Its ``max_retries``.
        xcom_ttl_seconds: Its ``xcom_ttl``.
    """

    default_max_retries: _NotNegative | None = None
    xcom_ttl_seconds: _Seconds | None = None

    def apply(self, tasks: "TaskQueue") -> None:
        """Set them on a queue."""
        if self.default_max_retries is not None:
            tasks.max_retries = check_retries(self.default_max_retries)
        if self.xcom_ttl_seconds is not None:
            tasks.xcom_ttl = lease_seconds("xcom_ttl", self.xcom_ttl_seconds)


class WorkerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the tasks are, and who does which. It does not change, and shows no password.

    Attributes:
        workers: The workers; each has an id of its own.
        url: Where the queues live, for `leaseq.connect`; None: ``redis`` says it, or nothing does.
        redis: The same in parts.
        queue: What the queue takes where tasks say nothing.

    Raises:
        ValueError: there are two workers of one id; there is a URL, and its parts too.
    """

    workers: tuple[WorkerSettings, ...]
    url: str | None = None
    redis: RedisSettings | None = None
    queue: QueueSettings = QueueSettings()

    def __post_init__(self) -> None:
        ids = [worker.id for worker in self.workers]
        twice = sorted({each for each in ids if ids.count(each) > 1})
        if twice:
            raise ValueError(f"there are two workers {twice[0]!r}: each needs an id of its own")
        if self.url is not None and self.redis is not None:
            raise ValueError("there are a url and a redis section: leave one of them out")

    def __repr__(self) -> str:
        return f"<WorkerConfig of {', '.join(worker.id for worker in self.workers)}>"

    @property
    def broker_url(self) -> str | None:
        """Where the queues live, with the password; None: the file does not say."""
        return self.redis.url if self.redis is not None else self.url

    def worker(self, id: str | None = None) -> WorkerSettings:
        """The settings of one worker.

        Args:
            id: Which; None: the only one.

        Raises:
            LookupError: there is no such worker, or more than one to choose from.
        """
        found = [worker for worker in self.workers if id in (None, worker.id)]
        if len(found) == 1:
            return found[0]
        choices = ", ".join(repr(worker.id) for worker in self.workers) or "no workers"
        if id is None:
            raise LookupError(f"say which worker to be: the configuration has {choices}")
        raise LookupError(f"there is no worker {id!r}: the configuration has {choices}")

    @classmethod
    def create_default(
        cls,
        worker_id: str,
        assigned_users: Sequence[str] = (),
        steal_targets: Sequence[str] = (),
        *,
        url: str | None = None,
    ) -> Self:
        """The configuration of a single worker.

        Args:
            worker_id: What it is called.
            assigned_users: Whose tasks it does, in fair turn; empty: anybody's.
            steal_targets: Whose tasks it does when those have none.
            url: Where the queues live; None: it is said elsewhere.

        Raises:
            ValueError: a part is not what it should be, with its place.
        """
        worker = {
            "id": worker_id,
            "assigned_users": list(assigned_users),
            "steal_targets": list(steal_targets),
        }
        return cls.from_dict({"workers": [worker], "url": url})

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """Read a file: ``.yaml`` and ``.yml`` as YAML, ``.toml`` as TOML.

        Raises:
            OSError: it cannot be read.
            ValueError: its name ends otherwise; or as `from_dict` does, with the file's name.
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
        """Read a file in YAML. Raises what `from_file` does."""
        return cls._read(path, _parse_yaml)

    @classmethod
    def from_toml(cls, path: str | Path) -> Self:
        """Read a file in TOML. Raises what `from_file` does."""
        return cls._read(path, _parse_toml)

    @classmethod
    def _read(cls, path: str | Path, parse: Callable[[bytes], Any]) -> Self:
        try:
            return cls.from_dict(parse(Path(path).read_bytes()))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    @classmethod
    def from_dict(cls, data: Any) -> Self:
        """Read what a file has.

        Settings that have a meaning in FairQueue and none here are logged, with the reason, and
        left out.

        Raises:
            ValueError: a part is not what it should be, with its place, as in
                ``$.workers[0].max_concurrent_tasks``; never with a value that may be secret.
        """
        try:
            return msgspec.convert(_without_the_meaningless(data), cls)
        except msgspec.ValidationError as error:
            raise ValueError(str(error)) from None


def _without_the_meaningless(data: Any) -> Any:
    if not isinstance(data, dict):
        return data
    kept = dict(data)
    for section, reasons in _MEANINGLESS.items():
        part = kept.get(section)
        if isinstance(part, list):
            kept[section] = [
                _without(each, f"{section}[{n}]", reasons) for n, each in enumerate(part)
            ]
        else:
            kept[section] = _without(part, section, reasons)
            if part is None:
                del kept[section]
    return kept


def _without(part: Any, place: str, reasons: Mapping[str, str]) -> Any:
    if not isinstance(part, dict):
        return part
    for name in part.keys() & reasons.keys():
        logger.warning("the setting %s.%s has no meaning here: %s", place, name, reasons[name])
    return {name: value for name, value in part.items() if name not in reasons}


def _parse_yaml(data: bytes) -> Any:
    try:
        return msgspec.yaml.decode(data)
    except ImportError:
        raise ValueError("reading YAML needs pyyaml: pip install 'leaseq[tasks]'") from None
    except msgspec.DecodeError as error:
        # Its message shows the line, and what it says may quote a word: there may be a password.
        mark = getattr(error.__context__, "problem_mark", None)
        problem = getattr(error.__context__, "problem", None)
        where = "" if mark is None else f", at line {mark.line + 1}, column {mark.column + 1}"
        what = "" if problem is None or "'" in problem else f": {problem}"
        raise ValueError(f"this is not YAML{where}{what}") from None


def _parse_toml(data: bytes) -> Any:
    try:
        return tomllib.loads(data.decode())
    except UnicodeDecodeError:
        raise ValueError("this is not TOML: it is not UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"this is not TOML: {error}") from None
