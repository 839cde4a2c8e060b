"""A bound on what all tenants hold together, by which none keeps the others out."""


class Shares:
    """How much of something each tenant holds, in units of the caller's.

    A tenant that is alone may hold `share` of `total`. Where several want more than there is, each gets the same, and
    as much again as each stays free: with a share of a half, two hold a third each and a newcomer finds a third. (What
    one may hold is in proportion to what nobody holds, which is how switches share their memory among ports.) Who holds
    nothing gets in as long as there is room, and one request is let in whatever its size when nobody holds anything.

    For one thread.
    """

    def __init__(self, total: int, share: int | None = None) -> None:
        """Without a `share`, it is three quarters: two tenants hold three sevenths each."""
        share = max(1, 3 * total // 4) if share is None else share
        if not 0 < share <= total:
            raise ValueError(f"a share of {share} in {total}")
        self._total = total
        self._share = share
        self._held: dict[str, int] = {}
        self._taken = 0

    @property
    def taken(self) -> int:
        """What all tenants hold."""
        return self._taken

    def held(self, tenant: str) -> int:
        """What the tenant holds."""
        return self._held.get(tenant, 0)

    def take(self, tenant: str, n: int = 1) -> bool:
        """Takes `n` for the tenant; False, and nothing is taken, where that would be more than it may hold."""
        held = self._held.get(tenant, 0)
        free = self._total - self._taken - n
        if self._taken and (free < 0 or (held and (held + n) * (self._total - self._share) > self._share * free)):
            return False
        self._set(tenant, held + n)
        self._taken += n
        return True

    def give_back(self, tenant: str, n: int = 1) -> None:
        """Gives back `n` of what the tenant took."""
        left = self.held(tenant) - n
        if left < 0:
            raise ValueError(f"{n} given back of {left + n}")
        self._set(tenant, left)
        self._taken -= n

    def _set(self, tenant: str, held: int) -> None:
        if held:
            self._held[tenant] = held
        else:
            self._held.pop(tenant, None)  # so that only tenants that hold something take memory
