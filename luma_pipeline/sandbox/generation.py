"""What the sandbox's provider knows of a task, and the bodies it answers with, plain or as odd as met in practice."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Any

from luma_pipeline.sandbox import samples
from luma_pipeline.sandbox.cdn import ArtifactUrls, CdnServer

# The example of the provider's page (GET /luma/generations/{task_id}).
EXAMPLE_URLS = ArtifactUrls(
    video="https://storage.cdn-luma.com/dream-machine/907ef9be-7057-45de-9867-099d6aba37b7/"
    "6ece4f7a-f60a-442c-9ad2-84132a528741/video0bb8885f3511c4b7bad55c117405a2875.mp4",
    video_raw="https://storage.cdn-luma.com/dream-machine/907ef9be-7057-45de-9867-099d6aba37b7/"
    "6ece4f7a-f60a-442c-9ad2-84132a528741/video0bb8885f3511c4b7bad55c117405a2875.mp4",
    thumbnail="https://imagedelivery.net/1KomXrSWiTojGGip43n0SQ/3d9fbfa9-6146-4eb9-3798-ac923a2a0e00/public",
    last_frame="https://storage.cdn-luma.com/dream-machine/907ef9be-7057-45de-9867-099d6aba37b7/"
    "543b6898-5179-4477-bc9f-f6507c7cde97/video_0_last_frame.jpg",
)
PALETTE_GRID = "CpCVPb67UdHMHbW0F42QHWBmX2FcJLSxAKipHH6DTFVTcU9GWpqdHJykU2lyel9MWEU/UF9vRH+aSFlrcVVOcVVISVFFSG97S1dp"
_NO_TIME = "0001-01-01T00:00:00Z"

Sign = Callable[[str, int, "datetime | None"], str]
"""Makes a presigned link of a URL, its life in seconds, and the time of signing (None: now)."""


class _Word(StrEnum):
    def __str__(self) -> str:
        return str(self.value)


class State(_Word):
    """The gateway's words for a task's state."""

    PENDING = "pending"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"


class Oddity(_Word):
    """One way in which answers for a task differ from the provider's page."""

    NUMBERS_AS_STRINGS = "numbers_as_strings"
    EMPTY_OBJECTS = "empty_objects"
    NULL_OBJECTS = "null_objects"
    MISSING_OBJECTS = "missing_objects"
    EXTRA_FIELDS = "extra_fields"
    THUMBNAIL_NULL = "thumbnail_null"
    THUMBNAIL_STRING = "thumbnail_string"
    THUMBNAIL_OBJECT = "thumbnail_object"
    CREATED_AT_MICROSECONDS = "created_at_microseconds"
    CREATED_AT_YEAR_ONE = "created_at_year_one"
    UNKNOWN_STATE = "unknown_state"
    """While the task is open its state is a word that is on no page."""
    PRESIGNED_DOWNLOAD = "presigned_download"
    """`video.download_url` is a presigned link that dies after `Generation.link_seconds`, on another host."""
    EXPIRED_DOWNLOAD = "expired_download"
    """As PRESIGNED_DOWNLOAD, but dead when it is handed out."""
    EMPTY_DOWNLOAD_URL = "empty_download_url"
    MISSING_DOWNLOAD_URL = "missing_download_url"
    OTHER_VIDEO = "other_video"
    """The answer says of the video that it is twice as wide and as long as it should be."""

    NOT_FOUND_404 = "not_found_404"
    NOT_FOUND_200 = "not_found_200"
    NOT_FOUND_400 = "not_found_400"
    NOT_FOUND_500 = "not_found_500"
    NOT_FOUND_DETAIL = "not_found_detail"
    PROXY_HTML = "proxy_html"
    """502 and a page of HTML, as from the proxy before the gateway."""
    CUT_BODY = "cut_body"
    NOT_JSON = "not_json"
    NOT_AN_OBJECT = "not_an_object"
    """200 and whole JSON that is no generation: an empty list."""
    GZIP_BODY = "gzip_body"
    GZIP_BOMB = "gzip_bomb"
    """A body of 64 KiB that unpacks to 64 MiB."""
    HUGE_BODY = "huge_body"
    """A JSON body of 64 MiB."""


NOT_FOUND_ODDITIES = frozenset(
    {
        Oddity.NOT_FOUND_404,
        Oddity.NOT_FOUND_200,
        Oddity.NOT_FOUND_400,
        Oddity.NOT_FOUND_500,
        Oddity.NOT_FOUND_DETAIL,
    }
)
TRANSPORT_ODDITIES = NOT_FOUND_ODDITIES | {
    Oddity.PROXY_HTML,
    Oddity.CUT_BODY,
    Oddity.NOT_JSON,
    Oddity.NOT_AN_OBJECT,
    Oddity.GZIP_BODY,
    Oddity.GZIP_BOMB,
    Oddity.HUGE_BODY,
}
"""Those that spoil the whole answer; every other one changes fields of its body."""


@dataclass(frozen=True)
class Phase:
    """From `after_seconds` past the task's creation its state is `state` (any word)."""

    after_seconds: float
    state: str


COMPLETED_AT_ONCE = (Phase(0.0, State.COMPLETED),)


@dataclass(frozen=True)
class Generation:
    """One task at the provider; `Generation(task_id)` is the page's example, completed.

    `created_at` is aware. The state follows from `phases` (the first at 0 seconds, then ascending) and the clock
    alone. Sizes are pixels, `duration` and `link_seconds` seconds. `odd_answers` is after how many answers the oddities
    end (None: never).
    """

    task_id: str
    phases: tuple[Phase, ...] = COMPLETED_AT_ONCE
    prompt: str = "mermaid"
    aspect_ratio: str = "16:9"
    created_at: datetime = datetime(2024, 12, 24, 18, 1, 25, 319_000, tzinfo=UTC)
    urls: ArtifactUrls = EXAMPLE_URLS
    width: int = 1360
    height: int = 752
    duration: float = 5.041667
    failure_reason: str = "The prompt was rejected by moderation."
    oddities: tuple[Oddity, ...] = ()
    odd_answers: int | None = None
    link_seconds: int = 3600

    def published(self, cdn: CdnServer) -> Generation:
        """The generation with the CDN's sample files for its task, whose size and duration the answer tells."""
        clip = samples.clip_of(self.task_id)
        return replace(
            self,
            urls=cdn.publish(self.task_id),
            aspect_ratio=clip.aspect_ratio,
            width=clip.width,
            height=clip.height,
            duration=clip.duration,
        )

    def state_at(self, now: datetime) -> str:
        """The state's word at an aware time."""
        age = (now - self.created_at).total_seconds()
        state = self.phases[0].state
        for phase in self.phases:
            if phase.after_seconds > age:
                break
            state = phase.state
        return str(state)


def gateway_body(generation: Generation, now: datetime, oddities: tuple[Oddity, ...], sign: Sign) -> dict[str, Any]:
    """The single task's answer of the gateway: the page's keys in the page's order, then made odd."""
    state = generation.state_at(now)
    body = _completed_body(generation) if state == State.COMPLETED else _open_body(generation, state)
    for oddity in oddities:
        _make_odd(body, generation, oddity, now, sign)
    return body


def plain_gateway_json(generation: Generation, now: datetime) -> bytes:
    """`gateway_body` without oddities as JSON: what the provider is asked most, at a third of the cost."""
    rest = _json_after_id(replace(generation, task_id="", phases=COMPLETED_AT_ONCE), generation.state_at(now))
    return b'{"id": ' + json.dumps(generation.task_id).encode() + rest


@lru_cache(maxsize=4096)
def _json_after_id(generation: Generation, state: str) -> bytes:
    body = _completed_body(generation) if state == State.COMPLETED else _open_body(generation, state)
    return json.dumps(body)[len('{"id": ""') :].encode()


def luma_body(generation: Generation, now: datetime, oddities: tuple[Oddity, ...], sign: Sign) -> dict[str, Any]:
    """The answer of Luma's own API, GET /dream-machine/v1/generations/{id} (the model of the lumaai SDK 1.21)."""
    gateway = gateway_body(generation, now, oddities, sign)
    video = gateway.get("video")
    state = generation.state_at(now)
    return {
        "id": generation.task_id,
        "generation_type": "video",
        "state": _LUMA_STATES.get(state, state),
        "failure_reason": gateway["failure_reason"],
        "created_at": gateway["created_at"],
        "assets": {
            "video": video.get("download_url") or video["url"],
            "image": generation.urls.thumbnail,
            "progress_video": None,
        }
        if video
        else None,
        "model": "ray-2",
        "request": {
            "generation_type": "video",
            "model": "ray-2",
            "prompt": generation.prompt,
            "aspect_ratio": generation.aspect_ratio,
            "loop": False,
            "keyframes": None,
            "callback_url": None,
        },
    }


def batch_entry(generation: Generation, now: datetime, body: object) -> dict[str, Any]:
    """One task in the answer of POST /luma/tasks, around its single answer."""
    state = generation.state_at(now)
    is_over = state in {State.COMPLETED, State.FAILED}
    finished = generation.created_at + timedelta(seconds=generation.phases[-1].after_seconds)
    return {
        "task_id": generation.task_id,
        "status": _BATCH_STATUSES.get(state, "UNKNOWN"),
        "fail_reason": generation.failure_reason if state == State.FAILED else "",
        "submit_time": int(generation.created_at.timestamp()),
        "start_time": int(generation.created_at.timestamp()),
        "finish_time": int(finished.timestamp()) if is_over else 0,
        "data": body,
    }


_LUMA_STATES = {
    "pending": "queued",
    "processing": "dreaming",
}
_BATCH_STATUSES = {
    "pending": "QUEUED",
    "processing": "IN_PROGRESS",
    "completed": "SUCCESS",
    "failed": "FAILURE",
}


def _open_body(generation: Generation, state: str) -> dict[str, Any]:
    return {
        "id": generation.task_id,
        "state": state,
        "video": None,
        "request": {"prompt": generation.prompt, "aspect_ratio": generation.aspect_ratio},
        "created_at": _timestamp(generation.created_at),
        "failure_reason": generation.failure_reason if state == State.FAILED else None,
    }


def _completed_body(generation: Generation) -> dict[str, Any]:
    urls, size = generation.urls, {"width": generation.width, "height": generation.height}
    raw = {"url": urls.video_raw, **size, "duration": generation.duration, "media_type": "video"}
    thumbnail = {"url": urls.thumbnail, **size, "palette": {"grid": PALETTE_GRID}, "media_type": "image"}
    last_frame = {"url": urls.last_frame, **size, "palette": None, "media_type": "image"}
    video = {"url": urls.video, **size, "download_url": urls.video}
    return {
        "id": generation.task_id,
        "state": str(State.COMPLETED),
        "video": video,
        "request": {"prompt": generation.prompt, "aspect_ratio": generation.aspect_ratio},
        "artifact": {
            "video": dict(video),
            "thumbnail": thumbnail,
            "video_raw": raw,
            "created_at": _NO_TIME,
            "last_frame": last_frame,
        },
        "thumbnail": thumbnail,
        "video_raw": raw,
        "created_at": _timestamp(generation.created_at),
        "last_frame": last_frame,
        "failure_reason": None,
    }


def _timestamp(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


_OBJECTS = ("request", "artifact", "thumbnail", "video_raw", "last_frame")


def _make_odd(body: dict[str, Any], generation: Generation, oddity: Oddity, now: datetime, sign: Sign) -> None:
    if oddity is Oddity.NUMBERS_AS_STRINGS:
        body.update(_with_strings(body))
    elif oddity in _OBJECT_ODDITIES:
        _replace_objects(body, oddity)
    elif oddity is Oddity.EXTRA_FIELDS:
        body.update(
            liked=None,
            prompt=generation.prompt,
            user_id="u-20",
            batch_id="",
            estimate_wait_seconds=None,
            queue_state=None,
        )
    elif oddity is Oddity.CREATED_AT_MICROSECONDS:
        body["created_at"] = generation.created_at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    elif oddity is Oddity.CREATED_AT_YEAR_ONE:
        body["created_at"] = _NO_TIME
    elif oddity is Oddity.UNKNOWN_STATE and body["video"] is None and body["state"] != State.FAILED:
        body["state"] = "upscaling"
    elif oddity is Oddity.OTHER_VIDEO and body["video"] is not None:
        other = replace(generation, width=2 * generation.width, duration=2 * generation.duration)
        body.update(_completed_body(other))
    elif body["video"] is not None:
        _make_video_odd(body["video"], generation, oddity, now, sign)


def _make_video_odd(video: dict[str, Any], generation: Generation, oddity: Oddity, now: datetime, sign: Sign) -> None:
    urls, life = generation.urls, generation.link_seconds
    if oddity is Oddity.THUMBNAIL_NULL:
        video["thumbnail"] = None
    elif oddity is Oddity.THUMBNAIL_STRING:
        video["thumbnail"] = urls.thumbnail
    elif oddity is Oddity.THUMBNAIL_OBJECT:
        video["thumbnail"] = {"url": urls.thumbnail, "width": generation.width, "height": generation.height}
    elif oddity is Oddity.PRESIGNED_DOWNLOAD:
        video["download_url"] = sign(urls.video, life, None)
    elif oddity is Oddity.EXPIRED_DOWNLOAD:
        video["download_url"] = sign(urls.video, life, now - timedelta(seconds=2 * life))
    elif oddity is Oddity.EMPTY_DOWNLOAD_URL:
        video["download_url"] = ""
    elif oddity is Oddity.MISSING_DOWNLOAD_URL:
        del video["download_url"]


_OBJECT_ODDITIES = frozenset({Oddity.EMPTY_OBJECTS, Oddity.NULL_OBJECTS, Oddity.MISSING_OBJECTS})


def _replace_objects(body: dict[str, Any], oddity: Oddity) -> None:
    for name in _OBJECTS:
        if oddity is Oddity.MISSING_OBJECTS:
            body.pop(name, None)
        elif name in body:
            body[name] = {} if oddity is Oddity.EMPTY_OBJECTS else None


def _with_strings(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _with_strings(part) for name, part in value.items()}
    return str(value) if isinstance(value, (int, float)) else value
