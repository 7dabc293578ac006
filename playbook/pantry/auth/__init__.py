"""The wire of Better Auth: what its client calls under `/api/auth`, and the rules behind it."""
