"""The ledger: what was taken in, made, decided and released, in SQL. One module per aggregate.

Its functions take the connection first, so that several changes can share one transaction.
"""

from everloop.store.ledger.database import Ledger

__all__ = ["Ledger"]
