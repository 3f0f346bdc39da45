"""The HTTP room: what the provider's and the media client share."""
