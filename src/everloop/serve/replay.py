"""The channel on which a request may say when it happened. Knows nothing of rows or of replays.

Event times are taken from a request only with the token that the server was started with: otherwise a client could
write history.
"""

import hmac

from everloop.errors import RequestError
from everloop.serve.heads import Headers

TOKEN = b"x-everloop-replay"
EVENT_TIME = b"x-everloop-event-time"
LARGEST = 2**62


class Channel:
    def __init__(self, token: bytes | None) -> None:
        self._token = token

    @staticmethod
    def asked(headers: Headers) -> bool:
        return TOKEN in headers or EVENT_TIME in headers

    def event_time(self, headers: Headers) -> int | None:
        """Microseconds, or None when the header gives none. Raises RequestError (403) without the right token."""
        sent = headers.get(TOKEN)
        if self._token is None or sent is None or not hmac.compare_digest(sent, self._token):
            raise RequestError(
                "Event times are taken only on the replay channel, with its token. Send the request without "
                "x-everloop-replay and x-everloop-event-time.",
                status=403,
            )
        stamp = headers.get(EVENT_TIME)
        if stamp is None:
            return None
        try:
            moment = int(stamp[:24])
        except ValueError:
            moment = LARGEST
        if not -LARGEST < moment < LARGEST:
            raise RequestError("x-everloop-event-time is not an integer of microseconds since 1970 in UTC.")
        return moment
