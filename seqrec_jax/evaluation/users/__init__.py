"""Whom the evaluation is about: attributes, slices, the four questions of the shop, the segments served worst."""
