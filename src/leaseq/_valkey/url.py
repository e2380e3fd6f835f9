"""The URL of a broker: the place of the server, and how to speak to it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote, unquote

from .._core.texts import shown
from .._core.url_options import read_url_options
from .._core.validation import number, whole_number

DEFAULT_PORT: Final = 6379

SCHEMES: Final[Mapping[str, bool]] = {
    "valkey": False,
    "valkeys": True,
    "redis": False,
    "rediss": True,
    "unix": False,
    "valkey+unix": False,
    "redis+unix": False,
}
"""The schemes of a URL; True: the connection is by TLS."""

_PREFIX: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")
_PARTS: Final = re.compile(r"([^/?#]*)([^?#]*)(?:\?([^#]*))?(?:#(.*))?", re.DOTALL)
_ESCAPES: Final = (
    "in a user's name or password, write : / ? # @ and % as %3A %2F %3F %23 %40 and %25"
)
_SECONDS: Final = "a number of seconds from 0.001 to 86400"
_REPLICAS: Final = 0, "0 to 100", 100
_GROUPS: Final = 0, "0 to 1000", 1000


@dataclass(frozen=True, slots=True)
class ValkeyUrl:
    """The parts of a URL: ``valkey://user:password@host:6379/0``; its text hides the password.

    Several hosts, ``valkey://a:7000,b:7000,c``, are nodes of one cluster: the others are found
    through any of them. One host that turns out to be a node of a cluster is enough, while it is
    there.

    ``unix://user:password@/path/to/valkey.sock?db=0`` is a server on this machine, through a
    socket; ``valkey+unix`` and ``redis+unix`` are other names for that.

    Attributes:
        hosts: Name or address, and port, of each host in the URL; of a socket, its path and 0.
        tls: True: the connection is by TLS.
        username: The user on the server; None: the server's default user.
        password: The user's password; None: no password.
        database: The number of the database on the server; for a socket ``?db=``.
        connect_timeout: Seconds within which the server must accept a connection
            (``?connect_timeout=5``).
        request_timeout: Seconds within which a request must be answered, including the time until
            a lost connection is back (``?request_timeout=5``); while parts of a long request or
            answer come through, the time from one part to the next.
        prefix: The beginning of all keys of the broker, in braces (``?prefix=leaseq``). Brokers
            with different prefixes do not see each other's queues.
        wait_replicas: The number of replicas that must have the effects of a call before it returns
            (``?wait_replicas=1``). 0: the primary alone; if it dies before it has passed them on,
            they are lost. With fewer than the server has, a replica that was not waited for may
            take over.
        groups: The number of groups over which queues are spread by their names, if they are made
            without ``group=`` (``?groups=30``); in a cluster, evenly over its slots. 0: they are
            all in the broker's own group. A process has two connections for each group that it
            uses. A change applies to new queues only: existing ones stay in their groups.
        cacert: The file of trusted certificates, in PEM, one of which must have signed the server's
            (``?cacert=/etc/ca.pem``); None: those that the system trusts.
        cert: The file of the client's certificate, in PEM (``?cert=``); None: no certificate.
        key: The file of its private key, in PEM (``?key=``).

    Raises:
        TypeError: the hosts are no pairs; or a number has another type.
        ValueError: a number is out of range.
    """

    hosts: tuple[tuple[str, int], ...]
    tls: bool = False
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    database: int = 0
    connect_timeout: float = 5.0
    request_timeout: float = 5.0
    prefix: str = "leaseq"
    wait_replicas: int = 0
    groups: int = 0
    cacert: str | None = None
    cert: str | None = None
    key: str | None = None

    def __post_init__(self) -> None:
        hosts: object = self.hosts
        if not isinstance(hosts, tuple) or not all(map(_is_place, hosts)):
            raise TypeError(
                f"hosts must be a tuple of pairs of a host and a port, not "
                f"{type(self.hosts).__name__}: "
                "ValkeyUrl.parse reads a URL"
            )
        whole_number("database", self.database, 0, "0 or more")
        whole_number("wait_replicas", self.wait_replicas, *_REPLICAS)
        whole_number("groups", self.groups, *_GROUPS)
        for name in ("connect_timeout", "request_timeout"):
            value = getattr(self, name)
            if not _is_patient(number(name, value, _SECONDS)):
                raise ValueError(f"{name} must be {_SECONDS}, not {shown(value)}")

    @classmethod
    def parse(cls, url: str) -> ValkeyUrl:
        """Read a URL.

        Args:
            url: As ``valkey://user:password@host:port/database?option=value``, of which all but
                the host can be left out. ``valkeys`` and ``rediss`` are TLS.

        Raises:
            TypeError: it is not a string.
            ValueError: it is not such a URL. The message never repeats what may be part of a
                password.

        O(its length).
        """
        if not isinstance(url, str):
            raise TypeError(f"the URL of a server must be a string, not {type(url).__name__}")
        scheme, separator, rest = url.partition("://")
        if not separator or scheme.lower() not in SCHEMES:
            choices = ", ".join(f"{each}://" for each in SCHEMES)
            raise ValueError(f"the URL of a Valkey server starts with one of {choices}")
        # urlsplit takes no list of hosts if one of them is in brackets.
        location, path, query, fragment = _PARTS.fullmatch(rest).groups("")  # type: ignore[union-attr]
        if "@" in path + query + fragment:
            # What seems to be a host may be the beginning of a password.
            raise ValueError(f"the URL has an @ after its host: {_ESCAPES}")
        if fragment:
            raise ValueError(f"the URL of a Valkey server has no #fragment: {_ESCAPES}")
        user_info, _, hosts = location.rpartition("@")
        username, _, password = user_info.partition(":")
        if username and not password:
            raise ValueError(
                "the URL has a user without a password: user:password@host (for one that has none, "
                "any will do)"
            )
        scheme = scheme.lower()
        # Without an @ the location may be the beginning of a password, which has a question mark.
        may_name = "@" in location or ":" not in location
        options = _options(query, tls=SCHEMES[scheme], may_name=may_name)
        if scheme.endswith("unix"):
            places = [(_socket(hosts, path), 0)]
            options.setdefault("database", 0)
        else:
            places = [*_hosts(hosts)]
            if "database" in options:
                raise ValueError(
                    "db= in the URL is for sockets: valkey://host/0 has it in its path"
                )
            options["database"] = _database(path)
        return cls(
            hosts=tuple(places),
            tls=SCHEMES[scheme],
            username=unquote(username) or None,
            password=unquote(password) or None,
            **options,
        )

    @property
    def is_cluster(self) -> bool:
        """True if the URL names the nodes of a cluster."""
        return len(self.hosts) > 1

    @property
    def address(self) -> str:
        """The hosts and ports alone, or the path of a socket, for messages."""
        return ",".join(place(*each) for each in self.hosts)

    def __str__(self) -> str:
        user = quote(self.username or "", safe="")
        if self.password is not None:
            user += ":***"
        user += "@" if user else ""
        if is_socket(self.hosts[0][0]):
            return f"unix://{user}{quote(self.address)}?db={self.database}"
        scheme = "valkeys" if self.tls else "valkey"
        return f"{scheme}://{user}{self.address}/{self.database}"


def is_socket(host: str) -> bool:
    """Return True if the host of a URL is the path of a socket."""
    return host.startswith("/")


def place(host: str, port: int) -> str:
    """Return the place of a server, for messages."""
    if is_socket(host):
        return host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _socket(hosts: str, path: str) -> str:
    socket = unquote(path)
    if hosts or not socket.strip("/") or "\0" in socket:
        raise ValueError(
            "the URL of a socket has its whole path, and no host: "
            f"unix:///run/valkey/valkey.sock?db=0; {_ESCAPES}"
        )
    return socket


def _is_place(pair: object) -> bool:
    return isinstance(pair, tuple) and [*map(type, pair)] == [str, int]


def _hosts(text: str) -> Iterator[tuple[str, int]]:
    for each in text.split(","):
        if each.startswith("["):
            host, bracket, after = each[1:].partition("]")
            colon, port = after[:1], after[1:]
            if not bracket or (after and colon != ":"):
                raise ValueError(
                    f"an IPv6 address in the URL is [address] or [address]:port; {_ESCAPES}"
                )
        else:
            host, colon, port = each.partition(":")
        if not host:
            raise ValueError("the URL of a Valkey server names its host: valkey://localhost:6379/0")
        yield host, _port(port) if colon else DEFAULT_PORT


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 2**16):
        raise ValueError(f"the port in the URL is not a number from 1 to 65535; {_ESCAPES}")
    return int(text)


def _database(path: str) -> int:
    text = path.removeprefix("/")
    if not text:
        return 0
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"the path of the URL is the number of a database, as in /0; {_ESCAPES}")
    return int(text)


def _options(query: str, *, tls: bool, may_name: bool) -> dict[str, Any]:
    options = read_url_options(query, _OPTIONS, may_name=may_name, advice=f"; {_ESCAPES}")
    if "db" in options:
        options["database"] = options.pop("db")
    files = [name for name in ("cacert", "cert", "key") if name in options]
    if files and not tls:
        raise ValueError(f"{files[0]} in the URL is of TLS: such a URL starts with valkeys://")
    if ("cert" in options) != ("key" in options):
        raise ValueError("cert and key in the URL go together: a certificate, and its private key")
    return options


def _prefix(_name: str, text: str) -> str:
    if not _PREFIX.fullmatch(text):
        raise ValueError(
            "prefix in the URL has 1 to 64 characters: letters, digits, and . _ - : after the "
            "first one"
        )
    return text


def _seconds(name: str, text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not _is_patient(seconds):
        raise ValueError(f"{name} in the URL is not {_SECONDS}")
    return seconds


def _is_patient(seconds: float) -> bool:
    return 0.001 <= seconds <= 86_400


def _count(most: int) -> Callable[[str, str], int]:
    def read(name: str, text: str) -> int:
        if not (text.isascii() and text.isdigit() and int(text) <= most):
            raise ValueError(f"{name} in the URL is not a number from 0 to {most}")
        return int(text)

    return read


def _db(_name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError("db in the URL is not the number of a database")
    return int(text)


def _file(name: str, text: str) -> str:
    if not text or "\0" in text:
        raise ValueError(f"{name} in the URL is not the path of a file")
    return text


_OPTIONS: Final[Mapping[str, Callable[[str, str], Any]]] = {
    "connect_timeout": _seconds,
    "request_timeout": _seconds,
    "prefix": _prefix,
    "wait_replicas": _count(100),
    "groups": _count(1000),
    "db": _db,
    "cacert": _file,
    "cert": _file,
    "key": _file,
}
