"""No key and no session token in what botocore logs, at any level, nor in an error."""

from __future__ import annotations

import logging
import traceback
from typing import Any

import pytest

from luma_pipeline.s3 import ObjectStore, S3Error, make_client
from tests.media.conftest import BUCKET, Area
from tests.media.faulty_store import Fault, FaultyStore
from tests.media.stores import Store

TOKEN = "FwoGZXIvYXdzEJr//////////wEaDsEcReTsEsSiOnToKeN123=="
KEY_ID = "AKIAIOSFODNN7EXAMPLE"
SECRET = "SeCrEtAcCeSsKeY0123456789abcdefghijklmn+"


def test_neither_the_keys_nor_the_session_token_are_in_a_log(
    moto: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in moto.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY_ID)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_SESSION_TOKEN", TOKEN)
    with caplog.at_level(logging.DEBUG):
        store = ObjectStore(make_client(max_connections=1, timeouts=(5.0, 5.0)), BUCKET)
        store.put("secrets/key", b"body")
        store.get("secrets/key")
        list(store.list_all("secrets/"))

    assert "security-token" in caplog.text.lower()
    assert "AWS4-HMAC-SHA256 Credential=[redacted]" in caplog.text
    assert TOKEN not in caplog.text
    assert SECRET not in caplog.text
    assert KEY_ID not in caplog.text


def test_the_keys_of_an_assumed_role_are_in_no_log(
    moto: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Any
) -> None:
    config = tmp_path / "config"
    config.write_text(
        "[profile p]\nrole_arn = arn:aws:iam::123456789012:role/copier\nsource_profile = keys\nregion = us-east-1\n"
        f"[profile keys]\naws_access_key_id = testkey\naws_secret_access_key = {SECRET}\n"
    )
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_PROFILE", "p")
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto.endpoint)
    make_client(max_connections=1, timeouts=(5.0, 5.0))
    with caplog.at_level(logging.DEBUG):
        client = make_client(max_connections=1, timeouts=(5.0, 5.0))
        ObjectStore(client, BUCKET).put("secrets/role", b"body")
        keys = client._request_signer._credentials.get_frozen_credentials()  # type: ignore[attr-defined]

    assert "SecretAccessKey" in caplog.text
    assert keys.secret_key not in caplog.text
    assert keys.token not in caplog.text
    assert SECRET not in caplog.text


def test_a_store_that_repeats_the_token_in_its_error_is_not_quoted_whole(area: Area) -> None:
    fault = Fault(403, "AccessDenied", message=f"token {TOKEN} is not welcome?sig=abc")
    with FaultyStore(area.store.port, lambda request, nth: fault) as proxy:
        store = ObjectStore(area.store.client(endpoint=proxy.endpoint), BUCKET)
        with pytest.raises(S3Error) as caught:
            store.check("")
    shown = "".join(traceback.format_exception(caught.value))
    assert "is not welcome" in shown
    assert TOKEN not in shown
    assert "sig=abc" not in shown
