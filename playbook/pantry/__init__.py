"""Pantry, the package index that the playbooks build: what is only the service's, in plain modules."""
