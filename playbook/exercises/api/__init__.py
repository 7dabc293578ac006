"""Exercises of the track api: checkers, hints and wrong answers."""
