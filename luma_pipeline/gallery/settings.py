"""The gallery's room: what a gallery is told, as a frozen data class with every default."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from luma_pipeline.errors import ConfigurationError

__all__ = ["LARGEST_PAGE", "GallerySettings", "GallerySettingsError"]

LARGEST_PAGE = 5000
_LONGEST_TITLE = 100


class GallerySettingsError(ConfigurationError, ValueError):
    """A setting of the gallery cannot work; the message says which and what to do."""


@dataclass(frozen=True)
class GallerySettings:
    """What the gallery looks like and where it is seen.

    enabled: Whether the asset luma_gallery is there.
    title: The heading of the index.
    embed_thumbnails: Put small thumbnails into the page itself, so that a page alone shows them.
    page_size: Tasks on one page; a partition with more gets several.
    public_url: Where browsers find what is below the bucket's prefix, such as a CDN's address. Empty: the links that
        the UI shows lead to the store's own address, or to the console of AWS.

    Raises GallerySettingsError for a value that cannot work.
    """

    enabled: bool = False
    title: str = "Luma videos"
    embed_thumbnails: bool = True
    page_size: int = 1000
    public_url: str = ""

    def __post_init__(self) -> None:
        if not self.title.strip() or len(self.title) > _LONGEST_TITLE or not self.title.isprintable():
            raise GallerySettingsError(
                f"gallery.title (LUMA_GALLERY_TITLE): 1 to {_LONGEST_TITLE} printable characters, not {self.title!r}"
            )
        if not 1 <= self.page_size <= LARGEST_PAGE:
            raise GallerySettingsError(
                f"gallery.page_size (LUMA_GALLERY_PAGE_SIZE): 1 to {LARGEST_PAGE} tasks, not {self.page_size}"
            )
        if self.public_url:
            _check_url(self.public_url)


def _check_url(url: str) -> None:
    """Raise GallerySettingsError for an address that is no plain http(s) one. A query or a password may be a secret."""
    where = "gallery.public_url (LUMA_GALLERY_PUBLIC_URL)"
    try:
        parts = urlsplit(url)
        has_more = bool(parts.query or parts.fragment or parts.username or parts.password)
    except ValueError:
        raise GallerySettingsError(f"{where}: is no address; it looks like https://videos.example.com/luma") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname or not url.isprintable() or " " in url:
        raise GallerySettingsError(f"{where}: is no address; it looks like https://videos.example.com/luma")
    if has_more:
        raise GallerySettingsError(f"{where}: takes no user, no query and no #; every reader of the UI sees it")
