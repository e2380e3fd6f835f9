"""TLS, by certificates of one's own; the wire speaks it in front of a server that does not."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import anyio
import pytest
import trustme
from anyio import create_task_group
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from tests.contract.helpers import in_line
from tests.servers import Server
from tests.valkey.wire import Wire

import leaseq
from leaseq._core.errors import UnusableServerError

pytestmark = pytest.mark.anyio


class Papers:
    """An authority, and the files of what it vouches for."""

    def __init__(self, folder: Path) -> None:
        self._authority = trustme.CA()
        self.cacert = str(folder / "ca.pem")
        self._authority.cert_pem.write_to_path(self.cacert)
        self.cert, self.key = str(folder / "client.pem"), str(folder / "client.key")
        client = self._authority.issue_cert("ada@example.org")
        client.cert_chain_pems[0].write_to_path(self.cert)
        client.private_key_pem.write_to_path(self.key)

    def server(self, *names: str, asks: bool = False) -> ssl.SSLContext:
        """What a server of these names needs, which asks for certificates or does not."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._authority.issue_cert(*names).configure_cert(context)
        if asks:
            self._authority.configure_trust(context)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    return Papers(tmp_path_factory.mktemp("papers"))


@pytest.fixture(scope="module")
def other_papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    return Papers(tmp_path_factory.mktemp("other-papers"))


@asynccontextmanager
async def serving(server: Server, context: ssl.SSLContext) -> AsyncIterator[str]:
    async with Wire(server, tls=context).listening("?connect_timeout=1") as url:
        yield url


@pytest.fixture
def key_with_a_password(papers: Papers, tmp_path: Path) -> str:
    """The client's key, encrypted."""
    key = load_pem_private_key(Path(papers.key).read_bytes(), None)
    encrypted = key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"geheim")
    )
    path = tmp_path / "encrypted.pem"
    path.write_bytes(encrypted)
    return str(path)


async def refused(url: str) -> str:
    with pytest.raises(UnusableServerError) as caught:
        async with leaseq.connect(url):
            pass
    return str(caught.value)


@pytest.mark.parametrize("asks", [False, True], ids=["server", "both"])
async def test_queues_are_reached_by_tls(server: Server, papers: Papers, asks: bool) -> None:
    async with serving(server, papers.server("127.0.0.1", asks=asks)) as url:
        shown = f"&cert={papers.cert}&key={papers.key}" if asks else ""
        async with (
            leaseq.connect(f"{url}&cacert={papers.cacert}{shown}") as broker,
            create_task_group() as tg,
        ):
            await tg.start(broker.run)
            queue = await broker.queue("work")
            got = []

            async def consume() -> None:
                got.append((await queue.get())[0])

            async with create_task_group() as consuming:
                consuming.start_soon(consume)
                await anyio.sleep(0.05)  # it waits: a wake-up comes by TLS as well
                await queue.put("a", 1)
            assert got == ["a"]
            await queue.put("b", 1)
            assert await in_line(queue) == ["b"]
            tg.cancel_scope.cancel()


async def test_a_certificate_that_nobody_vouches_for_is_refused(
    server: Server, papers: Papers, other_papers: Papers
) -> None:
    async with serving(server, papers.server("127.0.0.1")) as url:
        for trusted in ("", f"&cacert={other_papers.cacert}"):
            reason = await refused(url + trusted)
            assert "has a certificate that is not trusted: " in reason
            assert "self" in reason or "unable to get local issuer" in reason


async def test_a_certificate_of_another_host_is_refused(server: Server, papers: Papers) -> None:
    async with serving(server, papers.server("elsewhere.example.org")) as url:
        reason = await refused(f"{url}&cacert={papers.cacert}")
        assert "has a certificate that is not trusted: IP address mismatch" in reason


async def test_who_shows_no_certificate_is_told_to(server: Server, papers: Papers) -> None:
    async with serving(server, papers.server("127.0.0.1", asks=True)) as url:
        reason = await refused(f"{url}&cacert={papers.cacert}")
        assert "wants to be shown a certificate: ?cert= and ?key= in the URL" in reason


@contextmanager
def refusing(context: ssl.SSLContext) -> Iterator[int]:
    """Something that shakes hands as OpenSSL does, which says why it does not; its port."""

    def shake_hands() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with suppress(OSError), context.wrap_socket(connection, server_side=True) as tls:
                    tls.recv(1)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=shake_hands)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_an_alert_about_a_certificate_is_told_whenever_it_comes(
    papers: Papers, newest: ssl.TLSVersion
) -> None:
    context = papers.server("127.0.0.1", asks=True)
    context.maximum_version = newest
    with refusing(context) as port:
        url = f"valkeys://127.0.0.1:{port}?connect_timeout=1&cacert={papers.cacert}"
        assert "wants to be shown a certificate" in await refused(url)


async def test_who_shows_a_strangers_certificate_is_told_so(
    server: Server, papers: Papers, other_papers: Papers
) -> None:
    async with serving(server, papers.server("127.0.0.1", asks=True)) as url:
        strange = f"&cert={other_papers.cert}&key={other_papers.key}"
        reason = await refused(f"{url}&cacert={papers.cacert}{strange}")
        assert "does not accept the certificate that it was shown" in reason


@pytest.mark.parametrize("which", ["cacert", "cert", "key"])
@pytest.mark.parametrize("content", [None, "", "no certificate"], ids=["absent", "empty", "other"])
async def test_files_that_are_no_certificates_are_named(
    server: Server, papers: Papers, tmp_path: Path, which: str, content: str | None
) -> None:
    path = tmp_path / "file.pem"
    if content is not None:
        path.write_text(content)
    files = {"cacert": papers.cacert, "cert": papers.cert, "key": papers.key, which: str(path)}
    options = "".join(f"&{name}={file}" for name, file in files.items())
    async with serving(server, papers.server("127.0.0.1")) as url:
        reason = await refused(url + options)
    assert str(path) in reason


async def test_a_key_with_a_password_is_refused_and_nobody_is_asked_for_it(
    server: Server, papers: Papers, key_with_a_password: str
) -> None:
    async with serving(server, papers.server("127.0.0.1")) as url:
        shown = f"&cert={papers.cert}&key={key_with_a_password}"
        assert "the key is encrypted" in await refused(url + shown)


async def test_a_key_of_another_certificate_is_said_to_be_that(
    server: Server, papers: Papers, other_papers: Papers
) -> None:
    async with serving(server, papers.server("127.0.0.1")) as url:
        reason = await refused(f"{url}&cert={papers.cert}&key={other_papers.key}")
        assert "are a certificate, and the key of another one" in reason


async def test_a_server_without_tls_is_said_to_have_none(server: Server, papers: Papers) -> None:
    url = f"valkeys://127.0.0.1:{server.port}?connect_timeout=1&cacert={papers.cacert}"
    assert "does not speak TLS" in await refused(url)
