"""The media room against real servers: a CDN that misbehaves on demand, and S3 stores."""
