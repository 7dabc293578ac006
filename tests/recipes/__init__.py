"""Tests that `playbook lift` writes beside a recipe: they need what it brings, pytest and hypothesis."""
