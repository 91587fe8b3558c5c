"""What giving up hopeless trials of a search saves."""
