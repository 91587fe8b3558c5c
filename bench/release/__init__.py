"""What the release judge, the gate and experiments promise, as seeded simulations beside what is usually done."""
