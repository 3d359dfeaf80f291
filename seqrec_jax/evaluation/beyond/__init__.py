"""What else than accuracy counts: what lists are like, what exposure does to figures, and what they cost."""
