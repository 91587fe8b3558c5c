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


@pytest.mark.parametrize(
    ("text", "name", "said"),
    [
        (None, "prod", "no everloop.toml"),
        ("[local]\n", "prod", "no table [prod]; it has: local"),
        ("[prod\n", "prod", "not TOML"),
        ('prod = "x"\n', "prod", "write a table, [prod]"),
        ("[prod]\nprot = 1\n", "prod", "[prod] has prot; known are"),
        ('[prod]\nport = "1"\n', "prod", "prod.port is '1'; write a int"),
    ],
)
def test_a_mistake_is_told_with_its_value(tmp_path: Path, text: str | None, name: str, said: str) -> None:
    if text is not None:
        (tmp_path / "everloop.toml").write_text(text)
    with pytest.raises(SpecError) as caught:
        Environment.read(tmp_path, name)
    assert said in str(caught.value)
