"""A contract strangers can rely on."""
