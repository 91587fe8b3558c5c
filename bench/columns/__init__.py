"""Pictures and mails through the whole loop: `python -m bench.columns`."""
