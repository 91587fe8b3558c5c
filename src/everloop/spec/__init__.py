"""The declaration: what a user writes, as frozen values. Reads no rows and does nothing."""
