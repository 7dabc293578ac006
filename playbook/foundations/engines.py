"""Stands in for the page of this name until it is written."""

from playbook.foundations.database import NAMING, Base, Statement, Timestamp, capture_sql, make_engine, take_turn

__all__ = ["NAMING", "Base", "Statement", "Timestamp", "capture_sql", "make_engine", "take_turn"]
