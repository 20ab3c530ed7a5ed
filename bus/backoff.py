"""When to start something again that ended unasked: pure arithmetic, with `now` as an argument."""

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class RestartPolicy:
    """Exponential back-off, forgotten once the child has run well for a while. All times in seconds."""

    first: float = 0.2  # long enough that a signal to the whole group reaches the parent too; short enough not to be felt
    factor: float = 2.0  # doubling: 0.2, 0.4, ... 6.4, then `limit`
    limit: float = 10.0  # a mended cause (a server that is back, a disk with room again) is noticed within this
    healthy_after: float = 30.0  # longer than any start takes, so a child that ran this long didn't fail in starting
    loop_after: int = 4  # the fourth failure running is no accident any more: 0.2 + 0.4 + 0.8 s of waiting and no better


@dataclass(frozen=True, kw_only=True)
class Restart:
    """What to do about one exit."""

    delay: float  # seconds to wait before starting it again
    attempt: int  # 1 for the first restart since the child was last healthy
    crash_loop: bool  # it keeps failing: worth a user's attention


@dataclass
class RestartHistory:
    """One child's exits."""

    policy: RestartPolicy
    failures: int = field(default=0)

    def exited(self, *, started: float, now: float) -> Restart:
        """The decision after an exit at `now` of a run begun at `started` (seconds of one monotonic clock)."""
        if now - started >= self.policy.healthy_after:
            self.failures = 0
        self.failures += 1
        # The exponent is bounded because a float overflows after a thousand doublings; the limit is reached long before.
        delay = min(self.policy.limit, self.policy.first * self.policy.factor ** min(self.failures - 1, 64))
        return Restart(delay=delay, attempt=self.failures, crash_loop=self.failures >= self.policy.loop_after)
