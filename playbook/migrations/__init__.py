"""Changing it while it runs."""
