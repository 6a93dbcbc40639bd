"""Addresses as they may be shown: in results, messages and logs, without secrets."""

from __future__ import annotations

import re

_USER = re.compile(r"(?<=://)\S*@")
_QUERY = re.compile(r"(?<=\?)[^\s!]+")
_PROPERTY = re.compile(
    r"""\b([\w-]*(?:pw|pwd|pass|passwd|password|secret|token|key|auth))\s*=\s*"""
    r"""("[^"]*"|'[^']*'|\S+)""",
    re.IGNORECASE,
)


def without_secrets(text: str) -> str:
    """Leave users, passwords and queries out of an address or a pipeline."""
    return _PROPERTY.sub(r"\1=***", _QUERY.sub("***", _USER.sub("***@", text)))
