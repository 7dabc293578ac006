"""The tables of sessions and mailed links, as Better Auth's contract wants their rows."""

from playbook.schema.identity import UserSession, Verification, delete_user

__all__ = ["UserSession", "Verification", "delete_user"]
