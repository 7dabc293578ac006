"""The exercises of the pages: for each one a module with its checker, two hints and wrong answers."""
