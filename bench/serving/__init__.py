"""What serving costs, beside others in the same run: `python -m bench.serving --help`."""
