"""A provider, a CDN and an S3 store on this machine: the whole pipeline with no account, and the tests' servers."""
