"""The ground everything stands on: settings, time, database, HTTP, decisions."""
