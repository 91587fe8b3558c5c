"""The certificate that the server shows, read again when its files change. Knows nothing of HTTP."""

import ssl
from pathlib import Path

from everloop.errors import SpecError
from everloop.serve.journal import say
from everloop.serve.releases import Mark, mark
from everloop.serve.settings import Tls

HANDSHAKE_SECONDS = 10.0


class Certificate:
    """``context`` stays the same object: a listening socket shows the newest certificate that was sound."""

    def __init__(self, tls: Tls) -> None:
        """Raises SpecError when the files cannot be used together."""
        self._tls = tls
        self._seen: tuple[Mark | None, Mark | None] = self._marks()
        self.problem: str | None = None
        self.context = _context(tls)

    def poll(self) -> None:
        """Look once. A new pair that does not fit is said and the old one stays: the other file may be under way."""
        marks = self._marks()
        if marks == self._seen:
            return
        self._seen = marks
        try:
            _context(self._tls)  # apart: a failed load would leave the served one without its key
            _load(self.context, self._tls)
        except SpecError as error:
            if self.problem != str(error):
                say("certificate refused, the old one stays", because=str(error))
            self.problem = str(error)
        else:
            self.problem = None
            say("certificate", file=self._tls.certificate)

    def _marks(self) -> tuple[Mark | None, Mark | None]:
        return mark(Path(self._tls.certificate)), mark(Path(self._tls.key))


def _context(tls: Tls) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    _load(context, tls)
    return context


def _load(context: ssl.SSLContext, tls: Tls) -> None:
    def encrypted() -> str:
        raise SpecError(
            f"The private key {tls.key} is encrypted, and nobody is there to type its password; "
            "write one that is not encrypted and that only the server may read."
        )

    for path in (tls.certificate, tls.key):
        try:
            Path(path).read_bytes()
        except OSError as error:
            raise SpecError(f"{path} cannot be read: {error.strerror}. TLS needs it (serve.tls).") from None
    try:
        context.load_cert_chain(tls.certificate, tls.key, encrypted)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise SpecError(
                f"The private key {tls.key} does not belong to the certificate {tls.certificate}; "
                "write the two that were made together (serve.tls)."
            ) from None
        raise SpecError(
            f"{tls.certificate} and {tls.key} are not a certificate chain and its private key in PEM: "
            f"{(error.reason or 'no PEM in them').lower().replace('_', ' ')}."
        ) from None
