"""Figures by kind of user: attributes of users, slices, the four questions of a shop, the segments served worst."""
