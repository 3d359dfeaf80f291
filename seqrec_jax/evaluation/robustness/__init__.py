"""What becomes of figures and lists when histories are worse, tastes change or the model ages."""
