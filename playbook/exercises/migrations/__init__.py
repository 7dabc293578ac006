"""The exercises of the track "migrations"."""
