"""Stands before every request: whose key it brings, where that may go, how often. Knows nothing of rows or answers.

What a request costs here is one look into a dict by the bytes of its key header: a key is hashed only the first time it
is seen. A call of another protocol is admitted like the request of the same meaning: with its metadata as headers.
"""

import ipaddress
import re
import time
from itertools import count
from os import getpid, urandom
from typing import Any, Protocol

from everloop.errors import RequestError
from everloop.serve.cors import CrossOrigin
from everloop.serve.exchange import Exchange, Observer
from everloop.serve.heads import Headers
from everloop.serve.keys import PRIORITIES, Keyring, StoredKey, refusal_of
from everloop.serve.limits import Allowance, Usage, name_of
from everloop.serve.paths import Place, place_of
from everloop.serve.rates import Rate, quota
from everloop.serve.settings import ServerSettings, is_loopback
from everloop.serve.urgency import HIGH, NORMAL

FOREVER = float("inf")
REMEMBERED = 4096
"""Verified keys, addresses and paths that are remembered; beyond it all of a kind are looked up again."""
SHORT = 512
"""Bytes: what is longer is looked up each time, so that nobody fills the memory with paths of 32 KiB."""
NO_KEY = b'www-authenticate: Bearer realm="everloop"\r\n'
BAD_KEY = b'www-authenticate: Bearer realm="everloop", error="invalid_token"\r\n'
NO_SCOPE = b'www-authenticate: Bearer realm="everloop", error="insufficient_scope"\r\n'
well_formed = re.compile(rb"[!-~]{1,128}").fullmatch


class Caller:
    """Whoever asks. ``priority``: the highest class that is granted; ``until``: when the key ends (perf_counter)."""

    __slots__ = ("allowance", "anywhere", "key", "name", "operates", "priority", "until")

    def __init__(self, name: str, allowance: Allowance | None, key: StoredKey | None = None) -> None:
        self.name = name
        self.allowance = allowance
        self.key = key
        self.priority = HIGH if key is None else PRIORITIES[key.priority]
        self.anywhere = key is None or (not key.loops and "predict" in key.scopes)
        """Any loop may be asked for predictions."""
        self.operates = key is not None and "operate" in key.scopes
        ends = None if key is None else key.expires
        self.until = FOREVER if ends is None else time.perf_counter() + ends - time.time()


class Tracer(Protocol):
    def begin(self, headers: Headers) -> Any:
        """The request's place in a trace; None when it is not traced."""
        ...


class Gate:
    """``keyring`` None: nobody is asked for a key. ``only``: the loop's name where there is one loop."""

    def __init__(
        self,
        settings: ServerSettings,
        *,
        keyring: Keyring | None,
        usage: Usage | None,
        addresses: Usage | None,
        only: bytes | None = None,
        observer: Observer | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        self._settings = settings
        self._keyring = keyring
        self._usage = usage
        self._addresses = addresses
        self._only = only
        self._observer = observer
        self._tracer = tracer
        self._names_requests = settings.request_ids or observer is not None
        self._tells = settings.limits.headers
        self._cross = CrossOrigin(settings.cors) if settings.cors is not None else None
        self._callers: dict[bytes | None, Caller] = {}
        self._clients: dict[str, Caller] = {}
        self._passed: dict[tuple[bytes, bytes | None], Caller] = {}
        """Callers with a key that may go where they went before, by the path and the header with the key."""
        self._places: dict[bytes, Place] = {}
        self._allowances: dict[str, Allowance] = {}
        self._request = b"%x-%b-" % (getpid(), urandom(4).hex().encode())
        self._count = count()

    @property
    def asks_for_keys(self) -> bool:
        return self._keyring is not None

    def admit(self, exchange: Exchange, headers: Headers, body: bytes) -> bool:
        """Whether it goes on; False: it is answered. Raises RequestError (401, 403, 429), its header lines written."""
        if self._names_requests:
            self._begin(exchange, headers)
        if self._cross is not None and b"origin" in headers and self._cross.answers(exchange, headers):
            return False
        sent = headers.get(b"x-api-key") or headers.get(b"authorization")
        caller = self._passed.get((exchange.url, sent))
        if caller is None or exchange.arrived >= caller.until:  # else all that is asked was answered before
            caller = self.recognise(exchange, headers)
            if caller is None:
                return True
        exchange.caller = caller
        if caller.priority > NORMAL:
            exchange.priority = caller.priority
        allowance = caller.allowance
        if allowance is not None:
            try:
                allowance.take(exchange.arrived)
            finally:
                if self._tells:
                    exchange.lines += allowance.fields()
        return True

    def recognise(self, exchange: Exchange, headers: Headers) -> Caller | None:
        """Whose request it is and whether he may go there; None: nobody is asked. Raises RequestError (401, 403)."""
        url = exchange.url
        sent = headers.get(b"x-api-key") or headers.get(b"authorization")
        place = self._places.get(url) or self._place(url)
        if place.about != "loop":
            if place.about == "health":
                return None
            if place.about == "operate" and self._is_operator_here(exchange):
                return None
        try:
            caller = self._caller(sent, exchange.arrived)
            if caller is None:
                if place.about == "operate":
                    raise RequestError(self._not_from_there(), status=403, reason="not_loopback")
                return None if self._addresses is None else self._client(peer_of(exchange))
            if place.about != "loop" or not caller.anywhere:
                exchange.caller = caller
                self._check_place(caller, place)
        except RequestError as error:
            exchange.lines += _challenge(error)
            raise
        if caller.key is not None and place.about == "loop" and len(url) + len(sent or b"") <= SHORT:
            if len(self._passed) >= REMEMBERED:
                self._passed.clear()
            self._passed[url, sent] = caller
        return caller

    def close(self) -> None:
        """Give back what was granted and not used."""
        for allowance in [*self._allowances.values(), *(each.allowance for each in self._clients.values())]:
            if allowance is not None:
                allowance.close()

    # Who it is

    def _caller(self, sent: bytes | None, now: float) -> Caller | None:
        if self._keyring is None:
            return None
        caller = self._callers.get(sent) or self._recognised(self._keyring, sent)
        if now >= caller.until and caller.key is not None:
            raise refusal_of(caller.key, "expired")
        return caller

    def _recognised(self, keyring: Keyring, sent: bytes | None) -> Caller:
        """Hash and compare; only what was found right is remembered."""
        if not sent:
            raise RequestError(
                "This server asks for a key; send it as `authorization: Bearer KEY` or `x-api-key: KEY`.",
                status=401,
                reason="no_key",
            )
        scheme, _, token = sent.strip().partition(b" ")
        key = keyring.find(token.strip() if token and scheme.lower() == b"bearer" else sent, time.time())
        caller = Caller(key.name, self._allowance_of(key), key)
        if len(sent) <= SHORT:
            if len(self._callers) >= REMEMBERED:
                self._callers.clear()
            self._callers[sent] = caller
        return caller

    def _allowance_of(self, key: StoredKey) -> Allowance | None:
        """One for all keys of a name: rotating a key does not double what it may ask."""
        limits = self._settings.limits
        rate, most = key.rate or limits.rate, key.quota or limits.quota
        if self._usage is None or not (rate or most):
            return None
        found = self._allowances.get(key.name)
        if found is None:
            found = self._allowances[key.name] = Allowance(
                self._usage,
                f"The key {key.name}",
                name_of(key.name),
                Rate.parse(rate) if rate else None,
                quota(most) if most else None,
            )
        return found

    def _client(self, peer: str) -> Caller:
        found = self._clients.get(peer)
        if found is None:
            limit = self._settings.limits.address_rate
            allowance = None
            if self._addresses is not None and limit is not None:
                name = network(peer)
                allowance = Allowance(self._addresses, f"The address {name}", name_of(name), Rate.parse(limit), None)
            if len(self._clients) >= REMEMBERED:
                self._forget_clients()
            found = self._clients[peer] = Caller(peer, allowance)
        return found

    def _forget_clients(self) -> None:
        for each in self._clients.values():
            if each.allowance is not None:
                each.allowance.close()
        self._clients.clear()

    # Where it may go

    def _place(self, url: bytes) -> Place:
        place = place_of(url)
        if len(url) <= SHORT:
            if len(self._places) >= REMEMBERED:
                self._places.clear()
            self._places[url] = place
        return place

    def _check_place(self, caller: Caller, place: Place) -> None:
        """Raises RequestError (403)."""
        key = caller.key
        if key is None:
            return
        needed = "operate" if place.about == "operate" else "predict"
        if place.about != "server" and needed not in key.scopes:
            raise RequestError(
                f"The key {key.name} may {' and '.join(key.scopes)}; this takes one that may {needed} "
                f"(`everloop keys add NAME --scope {needed}`).",
                status=403,
                reason="scope",
            )
        if place.about == "loop" and key.loops:
            asked = (place.loop or self._only or b"").decode(errors="replace")
            if asked not in key.loops:
                raise RequestError(
                    f"The key {key.name} is for {', '.join(key.loops)}, not for {asked[:64] or 'this path'}.",
                    status=403,
                    reason="other_loop",
                )

    def _is_operator_here(self, exchange: Exchange) -> bool:
        operate = self._settings.operate
        return operate == "open" or (operate == "loopback" and is_loopback(peer_of(exchange)))

    def _not_from_there(self) -> str:
        return (
            "This is only for requests from the machine itself, for the server asks for no keys; ask from there, or write "
            'keys = true (or operate = "open") in [ENV.serve].'
        )

    # What is noted

    def _begin(self, exchange: Exchange, headers: Headers) -> None:
        sent = headers.get(b"x-request-id")
        if sent is None or not (exchange.plain or well_formed(sent)):  # what is plain was looked at
            sent = b"%b%x" % (self._request, next(self._count))
        exchange.request_id = sent
        exchange.lines = b"x-request-id: %b\r\n" % sent
        exchange.observer = self._observer
        if self._tracer is not None:
            exchange.traced = self._tracer.begin(headers)


def peer_of(exchange: Exchange) -> str:
    """The client's address as text; empty when the transport has none."""
    connection = exchange.connection
    if not connection.peer:
        name = connection.transport.get_extra_info("peername")
        connection.peer = str(name[0]) if isinstance(name, tuple) and name else ""
    return connection.peer


def network(peer: str) -> str:
    """Whom a limit for an address is about: one IPv4 address, or the /64 that one customer has in IPv6.

    >>> network("2001:db8:1:2:3:4:5:6")
    '2001:db8:1:2::/64'
    """
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return peer
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


def _challenge(error: RequestError) -> bytes:
    if error.reason == "no_key":
        return NO_KEY
    if error.status == 401:
        return BAD_KEY
    return NO_SCOPE if error.status == 403 else b""
