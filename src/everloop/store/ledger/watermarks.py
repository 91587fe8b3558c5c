"""How far each reader has come, and what it must remember: small JSON values under a name. Knows no readers."""

from typing import Any

import msgspec
from sqlalchemy import Connection, delete, insert, select, update

from everloop.records import encode
from everloop.store.ledger.tables import watermarks


def put(connection: Connection, loop: str, name: str, value: Any) -> None:
    """Set a value, any JSON, in place of the one before."""
    place = (watermarks.c.loop == loop, watermarks.c.name == name)
    text = encode(value).decode()
    if connection.execute(update(watermarks).where(*place).values(value=text)).rowcount == 0:
        connection.execute(insert(watermarks).values(loop=loop, name=name, value=text))


def get(connection: Connection, loop: str, name: str, default: Any = None) -> Any:
    """The value under that name, as plain JSON builtins."""
    query = select(watermarks.c.value).where(watermarks.c.loop == loop, watermarks.c.name == name)
    text = connection.execute(query).scalar_one_or_none()
    return default if text is None else msgspec.json.decode(text)


def of(connection: Connection, loop: str) -> dict[str, Any]:
    """All values of a loop by name."""
    query = select(watermarks.c.name, watermarks.c.value).where(watermarks.c.loop == loop).order_by(watermarks.c.name)
    return {name: msgspec.json.decode(value) for name, value in connection.execute(query)}


def remove(connection: Connection, loop: str, name: str) -> None:
    """Forget a value; no harm if there is none."""
    connection.execute(delete(watermarks).where(watermarks.c.loop == loop, watermarks.c.name == name))
