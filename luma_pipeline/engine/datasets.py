"""The engine: the names of the datasets."""

from __future__ import annotations

__all__ = ["DATASETS", "GENERATIONS", "TASKS", "VIDEOS"]

TASKS = "luma_tasks"
GENERATIONS = "luma_generations"
VIDEOS = "luma_videos"
DATASETS = (TASKS, GENERATIONS, VIDEOS)
"""In the order of the data."""
