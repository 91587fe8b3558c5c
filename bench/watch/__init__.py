"""What the watch costs, what it finds, and how often it cries for nothing."""
