"""The S3 room: one boto3 client, by one chain of settings, for the videos and the datasets."""
