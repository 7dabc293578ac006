"""The exercises of the pages in `playbook/schema`."""
