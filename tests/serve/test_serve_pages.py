"""Pages of other sites cannot ask a server that asks for no keys; pages of its own can."""

from pathlib import Path

import msgspec
import pytest

from everloop.errors import RequestError
from everloop.serve.pages import Pages
from everloop.serve.settings import Cors
from everloop.testing.serving import Client, ServedHome, signature_of

OUTCOME = {"id": "N1", "value": 1}


def test_a_page_of_another_site_writes_no_outcome(tmp_path: Path) -> None:
    served = ServedHome(tmp_path, "made")
    served.seal(1, signature_of({"x": "number"}))
    served.release(1)
    with served.serve() as server, Client(server.port) as client:
        for _ in range(3):  # refused each time: what was refused once is not remembered as sound
            status, answer = client.post("/outcomes", OUTCOME, origin="http://evil.example", content_type="text/plain")
            assert (status, "evil.example" in answer["error"]) == (403, True)
        for host, status in (("evil.example", 403), (f"127.0.0.1:{server.port}", 200)):
            body = msgspec.json.encode(OUTCOME)
            head = f"POST /outcomes HTTP/1.1\r\nhost: {host}\r\norigin: http://{host}\r\ncontent-length: {len(body)}\r\n\r\n"
            client.send(head.encode() + body)
            assert client.answers(1)[0][0] == status
        assert client.post("/outcomes", OUTCOME)[0] == 200
        assert 'code="403",reason="origin"} 4' in client.get("/metrics")[1].decode()


@pytest.mark.parametrize(
    ("loopback", "host", "origin", "passes"),
    [
        (True, b"localhost:8700", b"http://localhost:8700", True),
        (True, b"[::1]:8700", b"http://[::1]:8700", True),
        (True, b"localhost:8700", b"http://localhost:3000", False),
        (True, b"evil.example", b"http://evil.example", False),
        (True, b"localhost:8700", b"null", False),
        (True, b"localhost:8700", b"https://app.example", True),
        (False, b"models.example", b"https://models.example", True),
        (False, b"models.example", b"https://other.example", False),
    ],
)
def test_whose_page_may_ask(loopback: bool, host: bytes, origin: bytes, passes: bool) -> None:
    pages = Pages(Cors(origins=("https://app.example",)), loopback=loopback)
    if passes:
        pages.check({b"host": host, b"origin": origin})
    else:
        with pytest.raises(RequestError, match="page of"):
            pages.check({b"host": host, b"origin": origin})
