"""How a transaction begins. Knows nothing of what is done in it."""

from typing import Literal

from sqlalchemy import Connection


def begin(connection: Connection, how: Literal["BEGIN", "BEGIN IMMEDIATE"]) -> None:
    """Begin on SQLite, whose driver is told to leave that to us; elsewhere the driver has done it.

    Its own way would take the write lock only at the first change, after what the change rests on was read.
    """
    if connection.dialect.name == "sqlite":
        driver = connection.connection.driver_connection
        assert driver is not None
        driver.execute(how)
