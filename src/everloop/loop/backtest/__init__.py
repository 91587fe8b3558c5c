"""Which retraining policy would have been best on my history? Many policies over one history, one fit for all who share it."""
