"""The dataset's room: what runs have learnt of the provider's limit."""

from __future__ import annotations

import logging
from datetime import datetime

from luma_pipeline.dataset.errors import DatasetError
from luma_pipeline.dataset.storage import Storage
from luma_pipeline.limit import LearntLimit, LearntLimitError

__all__ = ["LearntLimits"]

_LARGEST_BYTES = 4096

_log = logging.getLogger(__name__)


class LearntLimits:
    """One small file an account. Nothing here fails a run: what cannot be used or written is logged.

    Two runs that write at once leave the file of one of them, whole.
    """

    def __init__(self, storage: Storage, folder: str) -> None:
        self._storage = storage
        self._folder = folder

    def read(self, account: str, now: datetime) -> LearntLimit | None:
        """What is known of an account's limit; None if nothing is, or nothing that can be used. `now` is aware."""
        path = self._path(account)
        try:
            with self._storage.open(path).source as source:
                return LearntLimit.parse(source.read(_LARGEST_BYTES), now)
        except FileNotFoundError:
            return None
        except LearntLimitError as error:
            _log.warning("what is known of the provider's limit (%s) is not used: %s", path, error)
        except (DatasetError, OSError) as error:
            _log.warning("what is known of the provider's limit (%s) is not used: %s", path, error)
        return None

    def write(self, account: str, learnt: LearntLimit) -> None:
        """Keep what was learnt in place of what was known."""
        path = self._path(account)
        try:
            self._storage.write(path, learnt.to_json())
        except (DatasetError, OSError) as error:
            _log.warning("what was learnt of the provider's limit was not kept in %s: %s", path, error)

    def _path(self, account: str) -> str:
        return f"{self._folder}/{account}.json"
