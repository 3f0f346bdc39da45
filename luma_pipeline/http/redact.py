"""The HTTP room: what may be shown of a link."""

from __future__ import annotations

import re
from urllib.parse import urlsplit, urlunsplit

UNREADABLE = "[unreadable link]"

# A name, an IPv4 or an IPv6 address; letters of any script. Nothing that a password needs quoting for.
_HOST = re.compile(r"[\w.:-]+")


def redact_link(url: str) -> str:
    """Scheme, host, port and path of an http(s) link. Anything else may be a secret, and is not shown.

    >>> redact_link("https://user:password@cdn.example.org/video.mp4?signature=abc#part")
    'https://cdn.example.org/video.mp4'
    >>> redact_link("https:user:password@cdn.example.org/video.mp4")
    '[unreadable link]'
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return UNREADABLE
    if parts.scheme not in {"http", "https"} or not _HOST.fullmatch(host):
        return UNREADABLE
    if ":" in parts.netloc.rpartition("@")[2] and "@" in parts.path:  # a password with a slash may begin like a port
        return UNREADABLE
    netloc = f"[{host}]" if ":" in host else host
    if port is not None:
        netloc = f"{netloc}:{port}"
    shown = urlunsplit((parts.scheme, netloc, parts.path, "", ""))
    return shown.encode("utf-8", "replace").decode("utf-8")
