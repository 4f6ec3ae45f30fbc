"""Which of a cluster's coordinators to call, and when to call again; nothing here touches the network.

One coordinator leads; the others answer UNAVAILABLE with the reason NOT_LEADER and, if they know it, the
leader's address. Addresses are called in turn; where an answer names a leader, that one is called next; after
a round in vain there is a pause.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from urllib.parse import urlsplit

from .errors import ApiError, EspalierError, NotLeaderError, UnavailableError

# Seconds between two rounds of calls.
PAUSE = 0.2


class Route:
    """Addresses to call, one after the other; one without a scheme has `scheme`."""

    def __init__(self, text: str, scheme: str = "http") -> None:
        parts = [part.strip() for part in text.split(",") if part.strip()]
        self.given = [part if "://" in part else f"{scheme}://{part}" for part in parts]
        if not self.given:
            raise EspalierError(f"{text!r} is not the address of a server: give it as http://HOST:PORT, several "
                                "coordinators of one cluster with commas between")
        for address in self.given:
            if not _is_address(address):
                raise EspalierError(f"{address!r} is not the address of a server: give it as http://HOST:PORT or https://HOST:PORT")
        # A leader that is named without encryption is not followed where encryption was asked for.
        self._encrypted = all(address.startswith("https://") for address in self.given)
        self._at = 0
        self._hint: str | None = None
        self._failed = 0
        # Whether a call ever went well: then a coordinator that is away is one that comes back.
        self.known = False

    @property
    def address(self) -> str:
        """The address to call now."""
        return self._hint or self.given[self._at]

    def reached(self) -> None:
        """The call went well: this one leads."""
        self._failed, self.known = 0, True

    def failed(self, error: ApiError) -> bool:
        """Turns to the next address, or to the one that the answer names. True: all were called in vain, pause."""
        self._failed += 1
        hint = self._leader(error)
        before, self._hint = self._hint, None
        # A hint that leads nowhere is not followed twice.
        if hint and hint not in (before, self.given[self._at]):
            self._hint = hint
        else:
            self._at = (self._at + 1) % len(self.given)
        # Each of those given may name one more.
        done = self._failed >= 2 * len(self.given) or (self._hint is None and self._failed >= len(self.given))
        if done:
            self._failed = 0
        return done

    def _leader(self, error: ApiError) -> str | None:
        named = error.metadata.get("leader") if isinstance(error, NotLeaderError) else None
        if not named:
            return None
        hint = named if "://" in named else f"{'https' if self._encrypted else 'http'}://{named}"
        return None if self._encrypted and not hint.startswith("https://") else hint


def _is_address(address: str) -> bool:
    try:
        parts = urlsplit(address)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and bool(parts.port)
    except ValueError:
        # A port that is no number, half an IPv6 address.
        return False


class Attempts:
    """When to make a call again that did not go well."""

    def __init__(self, route: Route, safe: bool, patience: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._route, self._safe, self._patience, self._clock = route, safe, patience, clock
        self._start = clock()
        self._elects = False

    def pause(self, error: ApiError) -> float | None:
        """Seconds to wait before the next try; None: give up.

        Only what is UNAVAILABLE passes. A call that is not safe to repeat is repeated only where the answer says that
        it was not carried out: another coordinator leads.
        """
        elsewhere = isinstance(error, NotLeaderError)
        if not isinstance(error, UnavailableError) or not (self._safe or elsewhere):
            return None
        self._elects |= elsewhere
        if not self._route.failed(error):
            return 0.0
        # Nobody was ever there: said at once. Somebody was, and none leads now: that passes.
        patient = self._elects or self._route.known
        self._elects = False
        return PAUSE if patient and self._clock() - self._start < self._patience else None
