"""Rate limits: in consecutive windows, or over the last seconds."""

from __future__ import annotations

import math
import time
from collections import deque
from dataclasses import dataclass, field


@dataclass
class Budget:
    """So many points per window. A window starts with its first request."""

    limit: int
    window: float
    used: int = 0
    resets_at: float = 0.0

    def refresh(self) -> None:
        """Start a new window if the current one is over."""
        now = time.time()
        if now >= self.resets_at:
            self.used, self.resets_at = 0, now + self.window

    def take(self, cost: int) -> bool:
        """Charge the cost. Returns False and charges nothing if not enough points are left."""
        self.refresh()
        if self.used + cost > self.limit:
            return False
        self.used += cost
        return True

    @property
    def remaining(self) -> int:
        return max(0, self.limit - self.used)

    @property
    def reset(self) -> int:
        """The Unix time at which the window ends, rounded up so that a client that waits for it waits long enough."""
        return math.ceil(self.resets_at)


@dataclass
class Rolling:
    """So many requests within any period of so many seconds."""

    limit: int
    seconds: float
    taken: deque[float] = field(default_factory=deque)

    def take(self) -> bool:
        """Count one request. Returns False and counts nothing if the limit is reached."""
        now = time.monotonic()
        while self.taken and self.taken[0] <= now - self.seconds:
            self.taken.popleft()
        if len(self.taken) >= self.limit:
            return False
        self.taken.append(now)
        return True

    def wait(self) -> int:
        """Seconds until the next request is allowed."""
        return max(1, math.ceil(self.taken[0] + self.seconds - time.monotonic())) if self.taken else 1
