"""The exercises of the pages in `playbook/auth`."""
