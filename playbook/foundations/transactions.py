"""Stands in for the page of this name until it is written."""

from playbook.foundations.database import is_conflict, somebody_was_first, transaction

__all__ = ["is_conflict", "somebody_was_first", "transaction"]
