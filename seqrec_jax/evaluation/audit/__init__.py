"""What may make a figure wrong, and sampled candidates, which do."""
