"""Figures and lists under worse histories, changes of taste and ageing models."""
