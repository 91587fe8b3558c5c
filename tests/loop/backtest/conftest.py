"""One known world for the tests of a module: its fits are made once."""

import pytest

from known_world import World, made


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return made(tmp_path_factory.mktemp("world"))
