"""The limit room: how fast requests may leave, for all threads of a run together. Knows no HTTP and no Dagster."""

from luma_pipeline.limit.adaptive import AdaptiveRateLimiter
from luma_pipeline.limit.gate import RateLimiter, RateLimitGate
from luma_pipeline.limit.learnt import LearntLimit, LearntLimitError, account_name
from luma_pipeline.limit.peers import LookTimes, Peer, PeerBoard, PeerError, PeerWatch
from luma_pipeline.limit.shared import SharedRateLimiter
from luma_pipeline.limit.token_bucket import TokenBucket

__all__ = [
    "AdaptiveRateLimiter",
    "LearntLimit",
    "LearntLimitError",
    "LookTimes",
    "Peer",
    "PeerBoard",
    "PeerError",
    "PeerWatch",
    "RateLimitGate",
    "RateLimiter",
    "SharedRateLimiter",
    "TokenBucket",
    "account_name",
]
