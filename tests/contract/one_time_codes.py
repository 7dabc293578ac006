"""What an authenticator app shows (RFC 6238), for the recordings: written apart from the recipe that they test."""

from __future__ import annotations

import base64
import hashlib
import hmac
import struct


def code_at(secret: str, seconds: float) -> str:
    """The six digits at a Unix time, from a secret in Base32 as the `otpauth:` URI has it."""
    key = base64.b32decode(secret + "=" * (-len(secret) % 8))
    digest = hmac.digest(key, struct.pack(">Q", int(seconds) // 30), hashlib.sha1)
    (number,) = struct.unpack_from(">I", digest, digest[-1] & 15)
    return f"{(number & 0x7FFFFFFF) % 1_000_000:06}"
