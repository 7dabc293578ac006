"""The exercises of the track api."""
