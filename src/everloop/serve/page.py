"""The page that shows the OpenAPI document and lets a reader try it: one file, nothing from elsewhere.

Knows nothing of loops: the page reads the document like anybody else, with the reader's key where one is asked for.
Loaded when somebody asks for it.
"""

import hashlib
import re
from base64 import b64encode
from functools import cache
from pathlib import Path

HTML = b"text/html; charset=utf-8"
_INLINE = re.compile(rb"<(script|style)>(.*?)</\1>", re.DOTALL)


@cache
def page() -> tuple[bytes, bytes]:
    """The page and its header lines: a browser runs this script and this style, and asks this server alone."""
    html = Path(__file__).with_name("page.html").read_bytes()
    hashes = {kind: b64encode(hashlib.sha256(text).digest()).decode() for kind, text in _INLINE.findall(html)}
    policy = "; ".join(
        (
            "default-src 'none'",
            f"script-src 'sha256-{hashes[b'script']}'",
            f"style-src 'sha256-{hashes[b'style']}' 'unsafe-hashes'",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    )
    lines = (
        f"content-security-policy: {policy}\r\nx-content-type-options: nosniff\r\nreferrer-policy: no-referrer\r\n"
        "cache-control: no-cache\r\n"
    )
    return html, lines.encode()
