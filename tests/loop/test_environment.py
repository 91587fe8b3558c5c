from pathlib import Path

import pytest

from everloop.errors import SpecError
from everloop.loop.environment import Environment


def test_without_a_file_everything_lives_beside_the_declaration_on_loopback(tmp_path: Path) -> None:
    found = Environment.read(tmp_path, None)
    assert (found.home, found.host, found.ledger) == (tmp_path / ".everloop", "127.0.0.1", None)


def test_each_table_is_an_environment(tmp_path: Path) -> None:
    (tmp_path / "everloop.toml").write_text(
        '[local]\nport = 1\n[prod]\nhome = "state"\nhost = "0.0.0.0"\nprocesses = 2\n'
    )
    assert Environment.read(tmp_path, None).port == 1
    found = Environment.read(tmp_path, "prod")
    assert (found.home, found.host, found.processes) == (tmp_path / "state", "0.0.0.0", 2)


def test_how_the_server_guards_itself_is_a_table_whose_files_lie_beside_it(tmp_path: Path) -> None:
    (tmp_path / "everloop.toml").write_text(
        '[prod.serve]\nkeys = true\naccess_log = "access.log"\n'
        'tls = { certificate = "chain.pem", key = "/etc/key.pem" }\n[prod.serve.limits]\nrate = "100/s"\n'
    )
    found = Environment.read(tmp_path, "prod").serve
    assert (found.keys, found.limits.rate, found.body_bytes) == (True, "100/s", 16 * 2**20)
    assert found.access_log == str(tmp_path / "access.log")
    assert found.tls is not None
    assert (found.tls.certificate, found.tls.key) == (str(tmp_path / "chain.pem"), "/etc/key.pem")
    assert Environment.read(tmp_path, None).serve.keys is False


@pytest.mark.parametrize(
    ("text", "name", "said"),
    [
        (None, "prod", "no everloop.toml"),
        ("[local]\n", "prod", "no table [prod]; it has: local"),
        ("[prod\n", "prod", "not TOML"),
        ('prod = "x"\n', "prod", "write a table, [prod]"),
        ("[prod]\nprot = 1\n", "prod", "[prod] has prot; known are"),
        ('[prod]\nport = "1"\n', "prod", "prod.port is '1'; write a int"),
        ("[prod]\nserve = 1\n", "prod", "prod.serve is 1; write a table"),
        ("[prod.serve]\nkyes = true\n", "prod", "prod.serve has kyes; known are "),
        ("[prod.serve]\nbody_bytes = 0\n", "prod", "prod.serve.body_bytes is 0; write the longest body"),
        ('[prod.serve]\nbody_bytes = "1"\n', "prod", "prod.serve.body_bytes is '1'; write the longest body"),
        ('[prod.serve.tls]\ncertificate = "x"\n', "prod", "prod.serve.tls.key is missing; write the file"),
        ('[prod.serve.tls]\ncert = "x"\n', "prod", "prod.serve.tls has cert; known are certificate, key"),
        (
            '[prod.serve.limits]\nrate = "5/d"\n',
            "prod",
            "prod.serve.limits.rate is '5/d'; write a whole number a second",
        ),
        ('[prod.serve.limits]\nquota = "0/d"\n', "prod", "prod.serve.limits.quota is '0/d'; write between 1 and"),
        ('[prod.serve.cors]\norigins = ["https://a/b"]\n', "prod", "prod.serve.cors.origins has 'https://a/b'; write"),
        ('[prod.serve]\ntrace = "x"\n', "prod", "prod.serve.trace is 'x'; write an http or https address"),
        ('[prod.serve]\nopen_to_the_world = "yes"\n', "prod", 'is \'yes\'; write "no", or "yes, without a key"'),
    ],
)
def test_a_mistake_is_told_with_its_value(tmp_path: Path, text: str | None, name: str, said: str) -> None:
    if text is not None:
        (tmp_path / "everloop.toml").write_text(text)
    with pytest.raises(SpecError) as caught:
        Environment.read(tmp_path, name)
    assert said in str(caught.value)
