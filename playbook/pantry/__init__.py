"""Operational parts of Pantry that no page teaches: plain modules, used by the assembly and by `playbook serve`."""
