"""The exercises of the foundations: for each page its checker, two hints and wrong answers."""
