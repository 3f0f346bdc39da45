"""Where an artifact lies in the bucket: keys that hold any task ID and are the same in every run and partition."""

from __future__ import annotations

import hashlib
import os.path
import re
import string
from functools import cached_property

from luma_pipeline.media.artifacts import Artifact
from luma_pipeline.media.errors import MediaSettingsError
from luma_pipeline.media.sniff import MEDIA_TYPES
from luma_pipeline.s3 import S3SettingsError, check_key

LONGEST_KEY_BYTES = 1024
"""S3's limit: https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html"""

DEFAULT_KEY_TEMPLATE = "{task_id}/{artifact}.{extension}"
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_SLUG_CHARACTERS = 40
_FIELDS = {"task_id", "artifact", "extension"}
_EXTENSIONS = tuple(sorted({media_type.extension for media_type in MEDIA_TYPES}))
_LONGEST_SEGMENT = "x" * 128


def safe_segment(task_id: str) -> str:
    """A task ID as one segment of a key: itself where it is plain, else a readable part, `~`, and its SHA-256.

    Plain are up to 128 letters, digits, `_`, `.` and `-`, with no `..` and no leading or trailing dot; `~` never is,
    so two task IDs never meet.
    """
    if _PLAIN.fullmatch(task_id) and ".." not in task_id and not task_id.endswith("."):
        return task_id
    slug = re.sub(r"[^A-Za-z0-9_-]+", "-", task_id[:_SLUG_CHARACTERS]).strip("-")
    return f"{slug}~{hashlib.sha256(task_id.encode('utf-8', 'surrogatepass')).hexdigest()}"


class KeyTemplate:
    """Keys by a template of `{task_id}`, `{artifact}` and, at its very end, `{extension}`, below a prefix.

    The extension is known only from the bytes. With it at the end, one listing by prefix finds an artifact whatever its
    extension. `has_extension` says whether it is there.

    Two artifacts never have one key. Each field stands once, and the extension after the last dot. A task ID is a
    segment without a slash. Where the artifact comes first, the text between the two fields must tell where its name
    ends: `{artifact}_{task_id}` would give `video` of task `raw_1` and `video_raw` of task `1` the same key.

    Raises MediaSettingsError, a ValueError, for a template or a prefix that gives no such keys.

    >>> KeyTemplate("{task_id}/{artifact}.{extension}", "luma").key("abc", Artifact.VIDEO, "mp4")
    'luma/abc/video.mp4'
    """

    def __init__(self, template: str = DEFAULT_KEY_TEMPLATE, prefix: str = "") -> None:
        where = f"key_template (LUMA_KEY_TEMPLATE) {template!r}"
        fields = _fields(template, where)
        self.has_extension = "extension" in fields
        if self.has_extension and not template.endswith(".{extension}"):
            raise MediaSettingsError(f"{where}: .{{extension}} may stand at the end alone")
        self._base = template.removesuffix("{extension}")
        self._literals = [literal for literal, _, _, _ in string.Formatter().parse(self._base)]
        self._is_artifact_first = fields.index("artifact") < fields.index("task_id")
        if self._is_artifact_first and _is_ambiguous(self._literals[1]):
            raise MediaSettingsError(
                f"{where}: keys of two artifacts would meet; put a slash between {{artifact}} and {{task_id}}"
            )
        _check_path(self._fill("x", Artifact.VIDEO) + ("mp4" if self.has_extension else ""), where)
        self.prefix = _checked_prefix(prefix)
        longest = f"{self.prefix}{self._fill(_LONGEST_SEGMENT, Artifact.LAST_FRAME)}{max(_EXTENSIONS, key=len)}"
        if len(longest.encode()) > LONGEST_KEY_BYTES:
            raise MediaSettingsError(
                f"prefix (LUMA_S3_PREFIX) and key_template (LUMA_KEY_TEMPLATE) can give keys over {LONGEST_KEY_BYTES} "
                "bytes"
            )

    def _fill(self, segment: str, artifact: Artifact) -> str:
        return self._base.format(task_id=segment, artifact=artifact.value)

    def key_base(self, task_id: str, artifact: Artifact) -> str:
        """The artifact's key up to its extension."""
        return self.prefix + self._fill(safe_segment(task_id), artifact)

    def key(self, task_id: str, artifact: Artifact, extension: str) -> str:
        """The artifact's key."""
        return self.key_base(task_id, artifact) + (extension if self.has_extension else "")

    def beginnings(self, task_id: str) -> list[str]:
        """What all keys of a task begin with: one text where its artifacts have a folder of their own, else several.

        >>> KeyTemplate("{task_id}/{artifact}.{extension}", "luma").beginnings("abc")
        ['luma/abc/']
        """
        bases = [self.key_base(task_id, artifact) for artifact in Artifact]
        shared = _common_beginning(bases)
        return [shared] if not self._is_artifact_first and shared.endswith("/") else bases

    @cached_property
    def beginning(self) -> str:
        """What all keys begin with: the prefix, and the text before the first field."""
        return _common_beginning([self.key_base("0", Artifact.VIDEO), self.key_base("1", Artifact.THUMBNAIL)])

    def key_base_of(self, key: str) -> str | None:
        """The base of a key that this template can have given; None for a key that only begins like one."""
        if not self.has_extension:
            return key
        base, dot, extension = key.rpartition(".")
        return base + dot if extension in _EXTENSIONS else None

    def is_ours(self, key: str) -> bool:
        """Whether this template, below this prefix, can have given the key."""
        return self._pattern.fullmatch(key) is not None

    def segment_of(self, key: str) -> str | None:
        """The task's segment (`safe_segment`) in a key that this template can have given; None for another key.

        >>> KeyTemplate(prefix="luma").segment_of("luma/abc/video.mp4")
        'abc'
        """
        found = self._pattern.fullmatch(key)
        return None if found is None else found["task_id"]

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        segment = rf"(?:{_PLAIN.pattern}|[A-Za-z0-9_-]{{0,{_SLUG_CHARACTERS}}}~[0-9a-f]{{64}})"
        artifacts = "|".join(artifact.value for artifact in Artifact)
        text = re.escape(self.prefix)
        for literal, field, _, _ in string.Formatter().parse(self._base):
            text += re.escape(literal)
            if field is not None:
                text += f"(?P<task_id>{segment})" if field == "task_id" else f"(?:{artifacts})"
        if self.has_extension:
            text += f"(?:{'|'.join(_EXTENSIONS)})"
        return re.compile(text)


def template_of(key: str, task_id: str, artifact: Artifact) -> str | None:
    """The template, with its prefix, that gives this key to an artifact; None where none does.

    Where the ID or the artifact's name stands twice in the key, the last place counts.

    >>> template_of("luma/video/abc.mp4", "abc", Artifact.VIDEO)
    'luma/{artifact}/{task_id}.{extension}'
    """
    base, dot, extension = key.rpartition(".")
    has_extension = bool(dot) and extension in _EXTENSIONS
    before, segment, after = (base + dot if has_extension else key).rpartition(safe_segment(task_id))
    for number, part in enumerate((after, before)):
        left, name, right = part.rpartition(artifact.value)
        if segment and name:
            filled = f"{_escaped(left)}{{artifact}}{_escaped(right)}"
            parts = (_escaped(before), filled) if number == 0 else (filled, _escaped(after))
            return "{task_id}".join(parts) + ("{extension}" if has_extension else "")
    return None


def _common_beginning(texts: list[str]) -> str:
    return os.path.commonprefix(texts)  # noqa: RUF071  (of texts: a key is no path)


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _fields(template: str, where: str) -> list[str]:
    """The names of a template's fields, in their order."""
    try:
        parsed = [part for part in string.Formatter().parse(template) if part[1] is not None]
    except ValueError as error:
        raise MediaSettingsError(f"{where}: {error}") from None
    fields = [str(field) for _, field, _, _ in parsed]
    for _, field, spec, conversion in parsed:
        if field not in _FIELDS:
            raise MediaSettingsError(f"{where}: unknown field {field!r}; known are {sorted(_FIELDS)}")
        if spec or conversion:
            raise MediaSettingsError(f"{where}: {{{field}}} takes no format and no conversion, or keys would meet")
        if fields.count(field) > 1:
            raise MediaSettingsError(f"{where}: {{{field}}} stands more than once")
    if not {"task_id", "artifact"} <= set(fields):
        raise MediaSettingsError(f"{where}: needs {{task_id}} and {{artifact}}, or keys would meet")
    return fields


def _is_ambiguous(between: str) -> bool:
    """Whether `artifact + between + task_id` can be read in two ways.

    It can where one artifact's name goes on as another's does (`video`, `video_raw`), and what goes on could as well be
    the text between with the beginning of a task ID.
    """
    return any(
        (longer.value.removeprefix(shorter.value) + between).startswith(between)
        for shorter in Artifact
        for longer in Artifact
        if longer is not shorter and longer.value.startswith(shorter.value)
    )


def _checked_prefix(prefix: str) -> str:
    """The prefix with a slash at its end. One slash around it is a habit of paths, and is no part of the keys."""
    bare = prefix.removeprefix("/").removesuffix("/")
    if not bare:
        return ""
    _check_path(bare, f"prefix (LUMA_S3_PREFIX) {prefix!r}")
    return f"{bare}/"


def _check_path(path: str, where: str) -> None:
    try:
        check_key(path, where)
    except S3SettingsError as error:
        raise MediaSettingsError(str(error)) from None
