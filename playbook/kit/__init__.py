"""Mechanics of the course: import hook, pairing, live server, display, exercises, command line. No lessons."""
