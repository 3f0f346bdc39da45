"""What signs a link is never seen: not in a log of any level, an error, a repr, a result, or on the object."""

from __future__ import annotations

import logging
import pickle
import threading
import time
import traceback

import pytest

from luma_pipeline.http.errors import TargetRefusedError, TransportError
from luma_pipeline.http.guard import Guard, parse_target
from luma_pipeline.media import Artifact, CopyRequest
from luma_pipeline.media.links import Link
from luma_pipeline.media.transport import Transport
from tests.media import samples
from tests.media.conftest import BUCKET, PART, Area
from tests.media.faulty_cdn import Answer, FaultyCdn

SECRET = "s3cr3tSIGNATURE"
QUERY = f"?X-Amz-Date=20990101T000000Z&X-Amz-Expires=3600&X-Amz-Signature={SECRET}#{SECRET}"
SMALL = samples.mp4(300_000)
LARGE = samples.mp4(PART + 1000)


def test_no_signature_leaks_from_any_ending(area: Area, cdn: FaultyCdn, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    logging.getLogger("urllib3").setLevel(logging.DEBUG)
    links = [
        cdn.add(Answer(SMALL)) + QUERY,
        cdn.add(Answer(LARGE)) + QUERY,
        cdn.add(Answer(SMALL, sends=10)) + QUERY,
        cdn.add(Answer(samples.HTML)) + QUERY,
        cdn.add(Answer(b"", 302, headers={"Location": f"http://169.254.169.254/{QUERY}"})) + QUERY,
        cdn.add(Answer(b"", 302, headers={"Location": f"file:///{QUERY}"})) + QUERY,
        cdn.add(Answer(b"", 302, headers={"Location": f"http://[{QUERY}"})) + QUERY,
        cdn.add(Answer(b"no", 403)) + QUERY,
        cdn.add(Answer(b"no", 500)) + QUERY,
        f"http://user:{SECRET}@127.0.0.1:1/x.mp4{QUERY}",
        f"http://127.0.0.1:notaport/x.mp4{QUERY}",
        f"http://[{SECRET}{QUERY}",
        f"nothing {QUERY}",
        f"http://{'a' * 70}.example/x{QUERY}",
        f"http://127.0.0.1:1/\ud800{QUERY}\x00\n",
    ]
    requests = [CopyRequest(f"task-{n}", Artifact.VIDEO, link) for n, link in enumerate(links)]
    with area.copier(refresh=lambda task_id, artifact: cdn.origin + "/gone" + QUERY) as copier:
        results = [future.result() for future in [copier.submit(request) for request in requests]]

    assert [str(result.status) for result in results].count("copied") == 2
    seen = [repr(requests), repr(results), repr(pickle.dumps(results))]
    seen += [record.getMessage() + repr(record.args) + (record.exc_text or "") for record in caplog.records]
    seen += [repr(area.client.head_object(Bucket=BUCKET, Key=r.key)) for r in results if r.key is not None]
    assert caplog.records
    assert [text for text in seen if SECRET in text] == []
    assert len([asked for asked in cdn.asked if SECRET in asked.query]) >= 9


@pytest.mark.parametrize("link", [f"http://127.0.0.1:1/x{QUERY}", f"http://[{SECRET}", f"gopher://x/{QUERY}"])
def test_no_signature_leaks_from_an_error_or_a_traceback(link: str) -> None:
    transport = Transport(Guard(allow_private_addresses=True), (1.0, 1.0), 1, threading.Event())
    with pytest.raises((TargetRefusedError, TransportError)) as caught:
        transport.get(parse_target(link), {}, time.monotonic() + 1)

    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    assert SECRET not in shown.replace(link, "")
    assert SECRET not in repr(Link(f"http://cdn.example.org/x.mp4{QUERY}"))
