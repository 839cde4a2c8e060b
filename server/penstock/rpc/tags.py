"""Entity tags: an answer that a client has already is not computed again while nothing that it depends on has changed.

A tag says which request it is the answer to, of which tenant, and of what version of the data, as one digest; and when
it was given. It is looked at before the rpc runs, so that 304 costs what a lookup costs. An answer may also depend on
the clock, as "the last hour" does; so a tag is believed for TAG_S only, unless the answer changes with releases alone.
"""

import hashlib
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias, cast

from google.api import annotations_pb2
from google.protobuf.descriptor import MethodDescriptor

from penstock.access.v1 import access_pb2
from penstock.rpc.needs import needs_of

TAG_S = 60
CANDIDATES_MAX = 16  # tags that a client may list; caches send one

VersionOf: TypeAlias = Callable[[str], str | None]  # of what a tenant reads; None while it is not known
Learn: TypeAlias = Callable[[str], Awaitable[object]]


class Tags:
    """Gives tags, and knows its own again."""

    def __init__(
        self,
        release: str,
        versions: Mapping[int, VersionOf],
        learn: Learn,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`versions`: by cacheability, the version of the data that such answers depend on; `learn` reads what a
        tenant's versions rest on, where they are not known."""
        self._learn = learn
        self._release = release
        self._versions = {access_pb2.CACHEABILITY_UNTIL_RELEASE: lambda _: "", **versions}
        self._clock = clock

    def applies(self, method: MethodDescriptor) -> bool:
        """Whether answers of the method have tags: those of a GET that may be served again."""
        unary = not method.client_streaming and not method.server_streaming
        rule = method.GetOptions().Extensions[cast(Any, annotations_pb2.http)]
        return unary and bool(rule.get) and needs_of(method).cache in self._versions

    async def learn(self, tenant: str) -> None:
        """Reads what has to be read before versions are known. Raises Unavailable, TimedOut."""
        await self._learn(tenant)

    def digest(self, method: MethodDescriptor, tenant: str, request: bytes) -> str | None:
        """What a tag for the answer to this request begins with now; None where the version is not known."""
        cache = needs_of(method).cache
        version = self._versions[cache](tenant)
        if version is None:
            return None
        found = hashlib.blake2b(digest_size=12)
        for part in (self._release, method.full_name, tenant, version):
            found.update(part.encode())
            found.update(b"\0")
        found.update(request)
        lasting = cache == access_pb2.CACHEABILITY_UNTIL_RELEASE
        return found.hexdigest() + ("r" if lasting else "")

    def tag(self, digest: str) -> str:
        """The tag to send, weak: bytes may differ while the answer is the same."""
        return f'W/"{digest}-{int(self._clock()):x}"'

    def headers(self, digest: str) -> tuple[tuple[str, str], ...]:
        """What goes along with an answer that has a tag."""
        return (("etag", self.tag(digest)), ("cache-control", "private, no-cache"))

    def matches(self, digest: str, if_none_match: str) -> bool:
        """Whether one of the tags that came is of this very answer, and young enough."""
        for candidate in if_none_match.split(",")[:CANDIDATES_MAX]:
            known, _, given = candidate.strip().removeprefix("W/").strip('"').partition("-")
            if known == digest and (known.endswith("r") or self._is_young(given)):
                return True
        return False

    def _is_young(self, given: str) -> bool:
        try:
            return 0 <= int(self._clock()) - int(given, 16) <= TAG_S
        except ValueError:
            return False
