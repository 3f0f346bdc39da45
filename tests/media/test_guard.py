"""Media are fetched from public hosts on the list alone, wherever a name or a redirect leads, and over trusted TLS."""

from __future__ import annotations

import datetime
import ipaddress
import socket
import ssl
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from luma_pipeline.http.errors import TargetRefusedError, TargetRefusedReason
from luma_pipeline.http.guard import Guard, parse_target
from luma_pipeline.media import Artifact, CopyRequest, CopyStatus
from luma_pipeline.media.transport import Transport
from tests.media import samples
from tests.media.conftest import Area
from tests.media.faulty_cdn import Answer, FaultyCdn

BODY = samples.mp4(50_000)

PRIVATE = [
    "127.0.0.1",
    "127.8.8.8",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "169.254.7.7",
    "::1",
    "fc00::1",
]
NEVER = ["169.254.169.254", "fd00:ec2::254", "0.0.0.0", "::", "224.0.0.1", "ff02::1", "169.254.170.2", "168.63.129.16"]
NEVER += [
    "192.0.0.8",
    "192.0.0.192",
    "::ffff:192.0.0.9",
    "3fff::1",
    "64:ff9b:1::1.1.1.1",
    "64:ff9b:1:a00:0:100:101:101",
]
DISGUISED = [
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::a00:1",
    "64:ff9b::169.254.169.254",
    "2002:a00:1::",
    "fe80::1%eth0",
    "fec0::1",
    "240.0.0.1",
    "192.0.2.1",
    "198.18.0.1",
    "255.255.255.255",
    "no address",
]


@pytest.mark.parametrize("address", PRIVATE + NEVER + DISGUISED)
def test_addresses_that_are_not_public_are_closed(address: str) -> None:
    assert not Guard().allows_address(address)


@pytest.mark.parametrize(
    "address", ["93.184.215.14", "1.1.1.1", "2606:4700:4700::1111", "::ffff:1.1.1.1", "64:ff9b::1.1.1.1"]
)
def test_public_addresses_are_open(address: str) -> None:
    assert Guard().allows_address(address)


def test_a_sandbox_opens_private_addresses_but_never_metadata_services() -> None:
    sandbox = Guard(allow_private_addresses=True)

    assert [address for address in PRIVATE if not sandbox.allows_address(address)] == []
    assert [address for address in [*NEVER, "::ffff:169.254.169.254"] if sandbox.allows_address(address)] == []


@pytest.mark.parametrize(
    ("host", "is_allowed"),
    [
        ("storage.cdn-luma.com", True),
        ("STORAGE.cdn-luma.com", True),
        ("a.b.example.org", True),
        ("example.org", False),
        ("evilexample.org", False),
        ("cdn-luma.com", False),
        ("storage.cdn-luma.com.evil.net", False),
    ],
)
def test_the_host_list_knows_exact_names_and_suffixes(host: str, is_allowed: bool) -> None:
    guard = Guard(["storage.cdn-luma.com", "*.example.org"])
    if is_allowed:
        guard.check_host(host)
    else:
        with pytest.raises(TargetRefusedError) as caught:
            guard.check_host(host)
        assert caught.value.reason is TargetRefusedReason.FORBIDDEN_HOST


def result_of(area: Area, link: str, **settings: Any) -> tuple[str, str | None]:
    with area.copier(**settings) as copier:
        result = copier.copy(CopyRequest("task", Artifact.VIDEO, link))
    assert area.objects() == ({"task/video.mp4": BODY} if result.status is CopyStatus.COPIED else {})
    return result.status.value, result.error_code


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "0x7f000001", "2130706433", "127.1", "[::ffff:127.0.0.1]", "0"]
)
def test_loopback_is_not_asked_under_any_name(area: Area, cdn: FaultyCdn, host: str) -> None:
    link = cdn.add(Answer(BODY)).replace("127.0.0.1", host)

    assert result_of(area, link, allow_private_addresses=False) == ("failed", "forbidden_address")
    assert cdn.asked == []


class ForgetfulGuard(Guard):
    """Lets an address through when it is resolved, and not when it is connected to."""

    def __init__(self, *, until_connected: bool) -> None:
        super().__init__(allow_private_addresses=True)
        self.asked: list[str] = []
        self._until_connected = until_connected

    def allows_address(self, text: str) -> bool:
        self.asked.append(text)
        return len(self.asked) == 1 or not self._until_connected


@pytest.mark.parametrize("until_connected", [True, False])
def test_the_address_that_is_really_connected_to_is_checked_and_a_name_resolved_once(
    cdn: FaultyCdn, until_connected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolved: list[str] = []
    resolve = socket.getaddrinfo

    def rebinding(host: str, *args: Any, **options: Any) -> Any:
        resolved.append(host)
        return resolve("127.0.0.1" if len(resolved) == 1 else "169.254.169.254", *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    guard = ForgetfulGuard(until_connected=until_connected)
    transport = Transport(guard, (5.0, 5.0), 1, threading.Event())
    target = parse_target(cdn.add(Answer(BODY)).replace("127.0.0.1", "cdn.example"))
    if until_connected:
        with pytest.raises(TargetRefusedError):
            transport.get(target, {}, time.monotonic() + 5)
    else:
        assert transport.get(target, {}, time.monotonic() + 5).status == 200
    transport.close()

    assert (guard.asked, resolved) == (["127.0.0.1"] * 2, ["cdn.example"])
    assert len(cdn.asked) == (0 if until_connected else 1)


@pytest.mark.parametrize(
    ("location", "code"),
    [
        ("http://169.254.169.254/latest/meta-data/iam/security-credentials/", "forbidden_address"),
        ("http://[fd00:ec2::254]/latest/", "forbidden_address"),
        ("http://0.0.0.0/", "forbidden_address"),
        ("//169.254.169.254/latest/", "forbidden_address"),
        ("http://localhost:1/elsewhere.mp4", "forbidden_host"),
        ("file:///etc/passwd", "bad_scheme"),
        ("ftp://127.0.0.1/x.mp4", "bad_scheme"),
        ("http://[broken/", "bad_scheme"),
        ("", "too_many_redirects"),
    ],
)
def test_a_redirect_is_checked_like_the_first_link(area: Area, cdn: FaultyCdn, location: str, code: str) -> None:
    link = cdn.add(Answer(b"", 302, headers={"Location": location}))
    hosts = ["127.0.0.1", "169.254.169.254", "fd00:ec2::254", "0.0.0.0"]

    assert result_of(area, link, allowed_media_hosts=hosts) == ("failed", code)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed_relative_and_absolute(area: Area, cdn: FaultyCdn, status: int) -> None:
    end = cdn.add(Answer(BODY), path="/grüße/end file.mp4")
    middle = cdn.add(Answer(b"moved", status, headers={"Location": "/gr%C3%BC%C3%9Fe/end%20file.mp4"}))
    cdn.add(Answer(BODY), path="/gr%C3%BC%C3%9Fe/end%20file.mp4")
    link = cdn.add(Answer(b"moved", status, headers={"Location": middle}))

    assert result_of(area, link) == ("copied", None)
    assert end != link


def test_redirects_are_bounded(area: Area, cdn: FaultyCdn) -> None:
    link = cdn.add(Answer(b"", 302, headers={"Location": "/loop"}), path="/loop")

    assert result_of(area, link, max_redirects=3) == ("failed", "too_many_redirects")
    assert len(cdn.asked) == 4


@pytest.mark.parametrize(
    "link",
    ["file:///etc/passwd", "ftp://example.org/x.mp4", "/relative", "http://", "http://[::1", "x", "http://a:b@:80/"],
)
def test_what_is_no_http_link_is_a_row(area: Area, link: str) -> None:
    assert result_of(area, link) == ("failed", "bad_scheme")


def test_media_hosts_get_no_credentials(
    area: Area, cdn: FaultyCdn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login someone password netrcsecret\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    end = cdn.add(Answer(BODY, headers={"Set-Cookie": "session=1"}))
    link = cdn.add(Answer(b"", 302, headers={"Location": end, "Set-Cookie": "session=1; Path=/"}))

    assert result_of(area, link.replace("http://", "http://user:pass@")) == ("copied", None)
    assert [set(asked.headers) for asked in cdn.asked] == [{"Host", "Accept", "Accept-Encoding", "User-Agent"}] * 2
    assert {asked.headers["Accept-Encoding"] for asked in cdn.asked} == {"identity"}


@given(
    st.text(max_size=200)
    | st.text(max_size=80).map("http://cdn.example.org/".__add__)
    | st.from_regex(r"https?://.{0,60}")
)
def test_any_text_is_a_target_without_anything_unquoted_or_no_link(text: str) -> None:
    try:
        target = parse_target(text)
    except TargetRefusedError:
        return
    assert target.path.isascii()
    assert target.path.isprintable()
    assert " " not in target.path
    assert "?" not in repr(target)


def certificate(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """A server's TLS context for 127.0.0.1, and the file that vouches for it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate_file, key_file = folder / "certificate.pem", folder / "key.pem"
    certificate_file.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate_file, key_file)
    return context, certificate_file


def test_https_is_spoken_to_hosts_with_a_trusted_certificate_only(
    area: Area, cdn: FaultyCdn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, certificate_file = certificate(tmp_path)
    with FaultyCdn(context) as secure:
        link = secure.add(Answer(BODY))
        downgrade = secure.add(Answer(b"", 302, headers={"Location": cdn.add(Answer(BODY))}))
        assert result_of(area, link) == ("failed", "connection")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate_file))
        assert result_of(area, downgrade) == ("failed", "bad_scheme")
        assert result_of(area, link) == ("copied", None)
