"""The exercises of the track production."""
