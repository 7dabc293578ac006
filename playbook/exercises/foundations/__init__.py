"""The exercises of the track foundations."""
