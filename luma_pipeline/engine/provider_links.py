"""The engine: links that the provider is asked for while videos are copied."""

from __future__ import annotations

from collections.abc import Sequence

from luma_pipeline.luma import LinkUnavailableError, LumaClient, Outcome
from luma_pipeline.luma.links import choose_link, links_of_generation
from luma_pipeline.media import Artifact, CopyError, ErrorCode, LinkSource

__all__ = ["ProviderLinks"]


class ProviderLinks:
    """Asks the provider for links, in the threads of the copier."""

    def __init__(self, client: LumaClient, preference: Sequence[LinkSource]) -> None:
        self._client = client
        self._preference = preference

    def unwatermarked(self, task_id: str) -> str | None:
        """A link to the video without watermark; None where there is none.

        Raises:
            CopyError: No usable answer came. Another run may get one.
        """
        try:
            return self._client.unwatermarked_link(task_id)
        except LinkUnavailableError as error:
            raise CopyError(ErrorCode.LINK_UNAVAILABLE, str(error)) from None

    def renewed(self, task_id: str, artifact: Artifact) -> str | None:
        """A living link in place of a dead one; None where the answer has none. Raises CopyError as `unwatermarked`."""
        result = self._client.fetch_one(task_id)
        if result.outcome in (Outcome.REQUEST_FAILED, Outcome.INVALID_RESPONSE):
            # Without this, an hour's trouble of the provider's would look like a video that is gone for good.
            message = f"the provider could not be asked for a living link: {result.error_message}"
            raise CopyError(ErrorCode.LINK_UNAVAILABLE, message)
        if result.generation is None:
            return None
        look_up, artifacts = links_of_generation(result.generation), self._client.spec.artifacts
        link, is_better_asked = choose_link(look_up, artifact, self._preference, artifacts)
        return (self.unwatermarked(task_id) if is_better_asked else None) or link
