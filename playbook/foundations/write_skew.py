"""Stands in for the page of this name until it is written."""

from playbook.foundations.database import NO_PARENT, NoParent, hold, hold_parents

__all__ = ["NO_PARENT", "NoParent", "hold", "hold_parents"]
