"""The one shape in which long functions report how far they are.

The code lies in `ml.progress`, because `ml` may import nothing of ours and two copies would drift apart.
"""

from ml.progress import ProgressCallback, ignore_progress, throttled

__all__ = ["ProgressCallback", "ignore_progress", "throttled"]
