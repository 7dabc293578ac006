"""What Pantry needs in operation and no page teaches: plain modules, put together in `playbook.pantry.app`."""
