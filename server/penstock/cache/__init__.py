"""What may be lost: Redis, and answers that are kept for whoever asks the same."""
