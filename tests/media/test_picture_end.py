"""A picture that was cut is no picture, also where its host promises just the bytes that it sends."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luma_pipeline.media import Artifact, CopyRequest, CopyStatus
from luma_pipeline.media.picture_end import PictureEnd
from luma_pipeline.media.sniff import GIF, JPEG, PNG, WEBM
from luma_pipeline.sandbox import samples as sandbox_samples
from tests.media.conftest import Area
from tests.media.faulty_cdn import Answer, FaultyCdn

REAL = Path(__file__).parent / "real_files"
PICTURES = {
    JPEG: (REAL / "still.jpg").read_bytes(),
    PNG: (REAL / "still.png").read_bytes(),
    GIF: (REAL / "still.gif").read_bytes(),
}
STEPS = st.lists(st.integers(1, 400), max_size=20)


def followed(data: bytes, steps: list[int]) -> PictureEnd:
    end, at = PictureEnd(), 0
    for step in [*steps, len(data)]:
        end.feed(memoryview(data)[at : at + step])
        at += step
    return end


@pytest.mark.parametrize("kind", PICTURES)
@given(share=st.floats(0, 1, exclude_max=True), steps=STEPS)
def test_a_cut_is_seen_wherever_it_is_and_however_the_bytes_come(kind: object, share: float, steps: list[int]) -> None:
    whole = PICTURES[kind]  # type: ignore[index]
    assert followed(whole[: int(share * len(whole))], steps).is_cut(kind)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", PICTURES)
@given(behind=st.binary(max_size=50), steps=STEPS)
def test_what_stands_behind_the_end_hides_it_not(kind: object, behind: bytes, steps: list[int]) -> None:
    assert not followed(PICTURES[kind] + behind, steps).is_cut(kind)  # type: ignore[index, arg-type]


def test_a_thumbnail_inside_is_not_taken_for_the_end() -> None:
    thumbnail = PICTURES[JPEG]
    segment = b"\xff\xe1" + (2 + len(thumbnail)).to_bytes(2, "big") + thumbnail
    whole = thumbnail[:2] + segment + thumbnail[2:]
    assert not followed(whole, []).is_cut(JPEG)
    assert followed(whole[: len(segment) + 200], []).is_cut(JPEG)


@given(st.binary(max_size=300), STEPS)
def test_any_bytes_can_be_followed(data: bytes, steps: list[int]) -> None:
    for kind in (*PICTURES, WEBM):
        assert followed(data, steps).is_cut(kind) == followed(data, []).is_cut(kind)


@pytest.mark.parametrize(
    "body",
    [*PICTURES.values(), (REAL / "still.avif").read_bytes(), sandbox_samples.last_frame("a task")],
    ids=["jpg", "png", "gif", "avif", "the sandbox's"],
)
def test_a_picture_of_which_the_host_sends_half_is_not_copied(area: Area, cdn: FaultyCdn, body: bytes) -> None:
    half, whole = (
        CopyRequest(name, Artifact.THUMBNAIL, cdn.add(Answer(part, content_type="application/octet-stream")))
        for name, part in (
            ("half", body[: len(body) // 2]),
            ("whole", body),
        )
    )
    with area.copier() as copier:
        results = [copier.submit(request).result() for request in (half, whole)]
    assert [result.status for result in results] == [CopyStatus.FAILED, CopyStatus.COPIED]
    assert "goes on beyond" in (results[0].error_message or "")


@pytest.mark.parametrize(
    "filling", [b"\xff", b"\xff" * 5, b"\xff\x01", b"\xff\xd0\xff\xd7"], ids=["fill", "fills", "TEM", "restarts"]
)
@given(steps=STEPS)
def test_what_may_stand_before_a_segment_hides_no_end(filling: bytes, steps: list[int]) -> None:
    """Fill bytes, and markers without a length (B.1.1.2 to B.1.1.4)."""
    whole = PICTURES[JPEG][:2] + filling + PICTURES[JPEG][2:]
    assert not followed(whole, steps).is_cut(JPEG)
    assert followed(whole[:-2], steps).is_cut(JPEG)
