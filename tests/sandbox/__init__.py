"""The sandbox: that what stands in for the provider, the CDN and S3 behaves as they do."""
