"""The source room: task IDs and their times out of any SQL database."""
