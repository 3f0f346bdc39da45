"""The environment's proxy and certificates are honoured, as requests honours them."""

from __future__ import annotations

import http.server
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from luma_pipeline.luma import LumaClient, ProviderConfig, TaskResult
from luma_pipeline.sandbox.provider import Generation, ProviderServer
from tests.luma.raw_server import Proxy

HOST = "provider.invalid"
SECRET = "sk-9f8e7d6c5b4a39281706"


@pytest.fixture(autouse=True)
def _no_proxy_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "requests_ca_bundle", "curl_ca_bundle"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def provider() -> Iterator[ProviderServer]:
    with ProviderServer([Generation("a/b")]) as server:
        server.token = SECRET
        yield server


def port_of(provider: ProviderServer) -> int:
    return int(provider.base_url.rpartition(":")[2])


def ask(base_url: str) -> TaskResult:
    with LumaClient(ProviderConfig(token=SECRET, base_url=base_url, max_retry_seconds=0.0)) as luma:
        return luma.fetch_one("a/b")


def test_http_goes_through_the_proxy(provider: ProviderServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with Proxy(port_of(provider)).serving() as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://me:p%40ss@127.0.0.1:{proxy.port}")
        assert ask(f"http://{HOST}").state == "completed"
    first = proxy.heads[0].split("\r\n")
    assert first[0] == f"GET http://{HOST}/luma/generations/a%2Fb HTTP/1.1"
    assert "Proxy-Authorization: Basic bWU6cEBzcw==" in first  # me:p@ss


def test_no_proxy_names_the_hosts_that_are_asked_directly(
    provider: ProviderServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Proxy(port_of(provider)).serving() as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        assert ask(provider.base_url).state == "completed"
    assert proxy.heads == []


@pytest.mark.parametrize("scheme", ["socks5", "https"])
def test_a_proxy_that_is_not_spoken_to_is_refused_at_once(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"{scheme}://me:{SECRET}@127.0.0.1:1080")
    with pytest.raises(ValueError, match="proxy") as caught:
        LumaClient(ProviderConfig(token=SECRET, base_url=f"https://{HOST}"))
    assert SECRET not in str(caught.value)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = b'{"id": "a/b", "state": "completed"}'
        is_allowed = self.headers["Authorization"] == f"Bearer {SECRET}" and self.headers["Host"] == HOST
        self.send_response(200 if is_allowed else 401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for HOST, with its key in the same file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "provider.pem"
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    path.write_bytes(made.public_bytes(pem) + key.private_bytes(pem, pkcs8, serialization.NoEncryption()))
    return path


@pytest.fixture
def secure_port(certificate: Path) -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield server.server_port
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("is_trusted", [True, False])
def test_https_goes_through_a_tunnel_to_a_host_that_must_be_trusted(
    secure_port: int, certificate: Path, is_trusted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_trusted:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    with Proxy(secure_port).serving() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
        outcome = ask(f"https://{HOST}")
    assert (outcome.state, outcome.error_code) == (("completed", None) if is_trusted else (None, "certificate"))
    assert [head.split("\r\n")[0].rpartition(" ")[0] for head in proxy.heads] == [f"CONNECT {HOST}:443"]
    assert SECRET not in "".join(proxy.heads)
