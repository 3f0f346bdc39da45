"""The forget room: which tasks are to be forgotten, and why."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from luma_pipeline.dataset import digest_of
from luma_pipeline.errors import ConfigurationError

__all__ = ["ForgetRequest", "ForgetRequestError"]

_LONGEST_TEXT = 1000


class ForgetRequestError(ConfigurationError, ValueError):
    """A request to forget cannot be carried out as it is; the message says why. Nothing was touched."""


@dataclass(frozen=True)
class ForgetRequest:
    """The tasks to be forgotten.

    tasks: The IDs, each once, by their digest (`digest_of`).
    blank: How many IDs were null or blank.
    repeated: How many IDs were there already.
    unreadable: How many values were no IDs.
    reason, requested_by: For the records. They are kept as they are: they should name no person.
    dry_run: Say what would be removed, and touch nothing.
    """

    tasks: dict[bytes, str]
    blank: int = 0
    repeated: int = 0
    unreadable: int = 0
    reason: str = ""
    requested_by: str = ""
    dry_run: bool = False

    def __post_init__(self) -> None:
        for name, text in (("reason", self.reason), ("requested_by", self.requested_by)):
            if len(text) > _LONGEST_TEXT or not text.isprintable():
                raise ForgetRequestError(f"{name}: up to {_LONGEST_TEXT} printable characters on one line")

    @classmethod
    def of(
        cls,
        task_ids: Iterable[str | None],
        *,
        unreadable: int = 0,
        reason: str = "",
        requested_by: str = "",
        dry_run: bool = False,
    ) -> ForgetRequest:
        """The request for these IDs, as they are: blanks around one are part of it, as in the datasets.

        >>> request = ForgetRequest.of(["a", "b", "a", " ", None])
        >>> list(request.tasks.values()), request.repeated, request.blank
        (['a', 'b'], 1, 2)
        """
        tasks: dict[bytes, str] = {}
        blank = named = 0
        for task_id in task_ids:
            if task_id is None or not task_id.strip():
                blank += 1
                continue
            named += 1
            tasks[digest_of(task_id)] = task_id
        return cls(tasks, blank, named - len(tasks), unreadable, reason, requested_by, dry_run)
