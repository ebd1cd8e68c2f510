"""How much one may ask of a vendor in a while: in windows one after the other, or in the last seconds."""

from __future__ import annotations

import math
import time
from collections import deque
from dataclasses import dataclass, field


@dataclass
class Budget:
    """Points per window; the window starts with the first request in it."""

    limit: int
    window: float
    used: int = 0
    resets_at: float = 0.0

    def refresh(self) -> None:
        """Begin a new window when the old one is over."""
        now = time.time()
        if now >= self.resets_at:
            self.used, self.resets_at = 0, now + self.window

    def take(self, cost: int) -> bool:
        """Charge the cost; False, and nothing charged, when that much is not left."""
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
        """The second in which all points are there again; rounded up, so that nobody waits too short."""
        return math.ceil(self.resets_at)


@dataclass
class Rolling:
    """So many requests in the last seconds."""

    limit: int
    seconds: float
    taken: deque[float] = field(default_factory=deque)

    def take(self) -> bool:
        """Count one request; False, and nothing counted, when there were as many as there may be."""
        now = time.monotonic()
        while self.taken and self.taken[0] <= now - self.seconds:
            self.taken.popleft()
        if len(self.taken) >= self.limit:
            return False
        self.taken.append(now)
        return True

    def wait(self) -> int:
        """Seconds until there is room again."""
        return max(1, math.ceil(self.taken[0] + self.seconds - time.monotonic())) if self.taken else 1
