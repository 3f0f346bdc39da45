"""Of a link only scheme, host, port and path are shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luma_pipeline.http.redact import UNREADABLE, redact_link

SECRET = "s3cr3t"

SHOWN = {
    f"https://cdn.example.org/v.mp4?sig={SECRET}": "https://cdn.example.org/v.mp4",
    f"https://cdn.example.org/v.mp4#{SECRET}": "https://cdn.example.org/v.mp4",
    f"https://cdn.example.org?sig={SECRET}": "https://cdn.example.org",
    f"https://user:{SECRET}@cdn.example.org/v.mp4": "https://cdn.example.org/v.mp4",
    f"https://{SECRET}@cdn.example.org:8443/v.mp4": "https://cdn.example.org:8443/v.mp4",
    f"HTTPS://user:{SECRET}@CDN.example.org/v.mp4": "https://cdn.example.org/v.mp4",
    f"ht\ttps://user:{SECRET}@cdn.example.org/v.mp4\n": "https://cdn.example.org/v.mp4",
    f"  https://user:{SECRET}@cdn.example.org/v.mp4": "https://cdn.example.org/v.mp4",
    f"https://user:{SECRET}\\@cdn.example.org/v.mp4": "https://cdn.example.org/v.mp4",
    f"http://user:{SECRET}@[2001:db8::1]:80/v.mp4": "http://[2001:db8::1]:80/v.mp4",
    "https://bücher.example/v.mp4": "https://bücher.example/v.mp4",
    "https://cdn.example.org/@maker/v.mp4": "https://cdn.example.org/@maker/v.mp4",
}


@pytest.mark.parametrize(("link", "shown"), SHOWN.items())
def test_a_link_is_shown_without_what_may_be_a_secret(link: str, shown: str) -> None:
    assert redact_link(link) == shown


NO_LINKS = [
    f"https:user:{SECRET}@h/x",
    f"https:/user:{SECRET}@h/x",
    f"https:///user:{SECRET}@h/x",
    f"HTTPS:///user:{SECRET}@h/x",
    f"https:\\\\user:{SECRET}@h\\x",
    f"https:/\\user:{SECRET}@h/x",
    f"\thttps:\t/user:{SECRET}@h/x",
    f"//user:{SECRET}@h/x",
    f"\\\\user:{SECRET}@h\\x",
    f"user:{SECRET}@h/x",
    f"https://user:{SECRET}",
    f"https://user:{SECRET}/x@h/x",
    f"https://h:{SECRET}/x",
    f"https://user:12/{SECRET}@h/x",
    f"https://user:/{SECRET}@h/x",
    f"https://{SECRET} /x",
    f"https://{SECRET}\\x",
    f"https://[{SECRET}/x",
    f"https://?{SECRET}",
    f"https://#{SECRET}",
    f"data:video/mp4;base64,{SECRET}",
    f"DATA:,{SECRET}",
    f"javascript:{SECRET}",
    f"mailto:{SECRET}@h",
    f"blob:https://h/{SECRET}",
    f"file:///{SECRET}",
    f"ftp://user:{SECRET}@h/x",
    f"s3://{SECRET}@h/x",
    f"urn:{SECRET}",
    f"/{SECRET}",
    SECRET,
    "",
]


@pytest.mark.parametrize("link", NO_LINKS)
def test_of_what_is_no_http_link_with_a_host_nothing_is_shown(link: str) -> None:
    assert redact_link(link) == UNREADABLE


@given(
    st.sampled_from(["https:", "http:", "HTTPS:", "", "data:", "h\nttps:"]),
    st.text(alphabet="/\\ \t", max_size=4),
    st.sampled_from([f"user:{SECRET}@", f"{SECRET}@", f"user:{SECRET}\\@", f"us\ter:{SECRET}@"]),
    st.sampled_from(["h/x", "h:80/x?q#f", "h", "[::1]/x", ""]),
)
def test_a_password_is_shown_of_no_text(scheme: str, slashes: str, login: str, rest: str) -> None:
    assert SECRET not in redact_link(scheme + slashes + login + rest)
