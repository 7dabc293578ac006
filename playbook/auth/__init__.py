"""Who is it, may they, for how long."""
