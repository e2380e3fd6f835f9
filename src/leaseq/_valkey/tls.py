"""The certificates that a URL names, seen to be such before anybody relies on them."""

from __future__ import annotations

import ssl
from pathlib import Path

from .._core.errors import UnusableServerError
from .url import ValkeyUrl

__all__ = ["make_context"]


def make_context(url: ValkeyUrl) -> ssl.SSLContext:
    """What Python's own TLS needs to connect as a URL says. Blocks as long as its files take.

    Raises:
        UnusableServerError: a file is not there, or is not what it should be; it is named.
    """
    for path in (url.cacert, url.cert, url.key):
        if path is not None:
            try:
                Path(path).read_bytes()
            except OSError as error:
                raise UnusableServerError(f"{path!r} cannot be read: {error.strerror}") from None
    try:
        context = ssl.create_default_context(cafile=url.cacert)
    except ssl.SSLError as error:
        raise UnusableServerError(f"no certificates in {url.cacert!r}: {_explain(error)}") from None
    if url.cert is not None:
        try:
            context.load_cert_chain(url.cert, url.key, password=_no_password)
        except (ssl.SSLError, _EncryptedError) as error:
            pair = f"{url.cert!r} and {url.key!r}"
            if getattr(error, "reason", "") == "KEY_VALUES_MISMATCH":
                raise UnusableServerError(
                    f"{pair} are a certificate, and the key of another one"
                ) from None
            raise UnusableServerError(
                f"{pair} are not a certificate and its private key, in PEM: {_explain(error)}"
            ) from None
    return context


class _EncryptedError(Exception):
    pass


def _no_password() -> str:
    raise _EncryptedError("the key is encrypted")  # else one would be asked for at the terminal


def _explain(error: BaseException | None) -> str:
    """The words of an error of TLS, without where in the library it was."""
    return str(getattr(error, "reason", None) or getattr(error, "strerror", None) or error)
