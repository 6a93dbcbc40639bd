"""Addresses as they may be shown: in results, messages and logs, without secrets."""

from __future__ import annotations

import re

_IN_ADDRESS = re.compile(r"(?<=://)[^/@\s]+@")
_PROPERTY = re.compile(r"\b([\w-]*(?:pw|password|passwd|secret|token))=\S+", re.I)


def without_secrets(text: str) -> str:
    """Leave user names and passwords out of an address or a pipeline."""
    return _PROPERTY.sub(r"\1=***", _IN_ADDRESS.sub("***@", text))
