"""Who may be asked for media: the scheme, the host and the address a link leads to."""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from luma_pipeline.http.errors import TargetRefusedError, TargetRefusedReason

_IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

# Services that hand a machine its credentials: AWS (EC2, ECS, EKS), Google, Azure and others at 169.254.169.254,
# Azure's host agent, Alibaba. https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-retrieval.html,
# https://learn.microsoft.com/azure/virtual-network/what-is-ip-address-168-63-129-16
_METADATA_SERVICES = frozenset(
    ipaddress.ip_address(address)
    for address in (
        "169.254.169.254",
        "169.254.170.2",
        "169.254.170.23",
        "fd00:ec2::254",
        "fd00:ec2::23",
        "168.63.129.16",
        "100.100.100.200",
    )
)
# RFC 6052: an IPv4 address in the last 32 bits.
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# No media host's, and not closed by every Python's `is_global`: translation inside one network, where a prefix of any
# length may hide the IPv4 address (RFC 8215); protocol assignments (RFC 6890); documentation (RFC 9637).
_CLOSED = (
    ipaddress.ip_network("64:ff9b:1::/48"),
    ipaddress.ip_network("192.0.0.0/24"),
    ipaddress.ip_network("3fff::/20"),
)
_DEFAULT_PORTS = {"http": 80, "https": 443}
_PATH_SAFE = "%/:@!$&'()*+,;=~-._"


@dataclass(frozen=True, slots=True)
class Target:
    """A link taken apart, ready for a request; `path` carries the query, which may be signed."""

    scheme: str
    host: str
    port: int
    path: str

    def __repr__(self) -> str:
        return f"Target({self.scheme}://{self.host}:{self.port})"

    @property
    def origin(self) -> str:
        """Scheme, host and port as a URL."""
        return f"{self.scheme}://{self.host_header}"

    @property
    def host_header(self) -> str:
        """The value of the `Host` header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"


def parse_target(url: str) -> Target:
    """Take a link apart; user name, password and fragment are left behind.

    Raises TargetRefusedError (`bad_scheme`) for anything but http and https with a host.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        parts, host, port = None, None, None
    # Raised outside the handler: the ValueError quotes the link.
    if parts is None or not host or parts.scheme not in _DEFAULT_PORTS:
        scheme = parts.scheme if parts is not None else ""
        raise TargetRefusedError(
            TargetRefusedReason.BAD_SCHEME, f"not an http(s) link with a host (scheme {scheme[:20]!r})"
        )
    path = quote(parts.path or "/", safe=_PATH_SAFE, errors="replace")
    if parts.query:
        path = f"{path}?{quote(parts.query, safe=_PATH_SAFE + '?', errors='replace')}"
    return Target(parts.scheme, _ascii_host(host), port or _DEFAULT_PORTS[parts.scheme], path)


def _ascii_host(host: str) -> str:
    # The codec also refuses labels that are empty or too long, which the resolver would raise UnicodeError for.
    with contextlib.suppress(UnicodeError):
        return host.rstrip(".").encode("idna").decode("ascii").lower()
    raise TargetRefusedError(TargetRefusedReason.BAD_SCHEME, "the link's host is not a host name")


def _embedded(address: _IPAddress) -> _IPAddress:
    """The IPv4 address that an IPv6 address stands for, if it stands for one."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


class Guard:
    """The rules a link has to keep, before the request and on the address that is really connected to.

    allowed_hosts: exact names, or `*.suffix` for every name below a suffix; empty allows any public host.
    allow_private_addresses: lets loopback, private and link-local addresses through (a local sandbox needs it);
        metadata services, multicast, unspecified and special-purpose addresses stay closed.
    """

    def __init__(self, allowed_hosts: Sequence[str] = (), *, allow_private_addresses: bool = False) -> None:
        self._allowed = tuple(host.strip().lower().rstrip(".") for host in allowed_hosts)
        if any(not host.removeprefix("*.") or "*" in host.removeprefix("*.") for host in self._allowed):
            raise ValueError("allowed_media_hosts: each entry is a host name, or *. and a host name")
        self._allow_private = allow_private_addresses

    def check_host(self, host: str) -> None:
        """Raise TargetRefusedError (`forbidden_host`) unless the list lets this host through."""
        host = host.lower()
        if not self._allowed:
            return
        for entry in self._allowed:
            if host == entry or (entry.startswith("*.") and host.endswith(entry[1:])):
                return
        raise TargetRefusedError(TargetRefusedReason.FORBIDDEN_HOST, f"host {host} is not among allowed_media_hosts")

    def allows_address(self, text: str) -> bool:
        """Whether a connection to this IP address may be made."""
        try:
            address = ipaddress.ip_address(text.partition("%")[0])
        except ValueError:
            return False
        inner = _embedded(address)
        if {address, inner} & _METADATA_SERVICES or inner.is_multicast or inner.is_unspecified:
            return False
        if any(inner in network for network in _CLOSED):
            return False
        if self._allow_private:
            return True
        is_site_local = isinstance(inner, ipaddress.IPv6Address) and inner.is_site_local
        return inner.is_global and not inner.is_reserved and not is_site_local
