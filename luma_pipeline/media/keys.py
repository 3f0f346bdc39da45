"""Where an artifact lies in the bucket: keys that hold any task ID and are the same in every run and partition."""

from __future__ import annotations

import hashlib
import re
import string

from luma_pipeline.media.artifacts import Artifact
from luma_pipeline.media.sniff import MEDIA_TYPES

LONGEST_KEY_BYTES = 1024
"""S3's limit: https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html"""

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

    The extension is known only from the bytes; with it at the end, one listing by prefix finds an artifact whatever
    its extension. `has_extension` says whether it is there. Raises ValueError for a template that could give two
    artifacts one key, or a key over 1024 bytes.
    """

    def __init__(self, template: str = "{task_id}/{artifact}.{extension}", prefix: str = "") -> None:
        try:
            fields = [field for _, field, _, _ in string.Formatter().parse(template) if field is not None]
        except ValueError as error:
            raise ValueError(f"key_template {template!r}: {error}") from error
        unknown = sorted(set(fields) - _FIELDS)
        if unknown:
            raise ValueError(f"key_template {template!r}: unknown field {unknown[0]!r}; known are {sorted(_FIELDS)}")
        if fields.count("task_id") < 1 or fields.count("artifact") < 1:
            raise ValueError(f"key_template {template!r}: needs {{task_id}} and {{artifact}}, or keys would meet")
        self.has_extension = "extension" in fields
        if self.has_extension and (fields.count("extension") > 1 or not template.endswith(".{extension}")):
            raise ValueError(f"key_template {template!r}: .{{extension}} may stand at the end alone")
        self._stem = template.removesuffix("{extension}")
        self.prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        if self._stem.startswith("/"):
            raise ValueError(f"key_template {template!r}: starts with a slash")
        longest = f"{self.prefix}{self._fill(_LONGEST_SEGMENT, Artifact.LAST_FRAME)}{max(_EXTENSIONS, key=len)}"
        if len(longest.encode()) > LONGEST_KEY_BYTES:
            raise ValueError(f"prefix and key_template can give keys over {LONGEST_KEY_BYTES} bytes")

    def _fill(self, segment: str, artifact: Artifact) -> str:
        return self._stem.format(task_id=segment, artifact=artifact.value)

    def stem(self, task_id: str, artifact: Artifact) -> str:
        """The artifact's key up to its extension."""
        return self.prefix + self._fill(safe_segment(task_id), artifact)

    def key(self, task_id: str, artifact: Artifact, extension: str) -> str:
        """The artifact's key."""
        return self.stem(task_id, artifact) + (extension if self.has_extension else "")

    def stem_of(self, key: str) -> str | None:
        """The stem of a key that this template can have given; None for a key that only begins like one."""
        if not self.has_extension:
            return key
        stem, dot, extension = key.rpartition(".")
        return stem + dot if extension in _EXTENSIONS else None

    def is_ours(self, key: str) -> bool:
        """Whether this template, below this prefix, can have given the key."""
        return self._pattern.fullmatch(key) is not None

    @property
    def _pattern(self) -> re.Pattern[str]:
        segment = rf"(?:{_PLAIN.pattern}|[A-Za-z0-9_-]{{0,{_SLUG_CHARACTERS}}}~[0-9a-f]{{64}})"
        artifacts = "|".join(artifact.value for artifact in Artifact)
        text = re.escape(self.prefix)
        for literal, field, _, _ in string.Formatter().parse(self._stem):
            text += re.escape(literal)
            if field is not None:
                text += segment if field == "task_id" else f"(?:{artifacts})"
        if self.has_extension:
            text += f"(?:{'|'.join(_EXTENSIONS)})"
        return re.compile(text)
