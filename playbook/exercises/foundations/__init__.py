"""Exercises of the track foundations."""
