"""Secrets kept out of what is shown and stored."""

from __future__ import annotations

import html
import json
import re
from urllib.parse import quote

MASK = "…"


def masked(text: str, secret: str | None) -> str:
    """The text with `secret` replaced by …, in either case, also where it is spelled as JSON, HTML or a part of an address spells it.

    A text must be masked before it is cut, since a part of a secret is not found.
    """
    if not secret:
        return text
    as_json = json.dumps(secret)[1:-1]
    spellings = {secret, as_json, as_json.replace("/", "\\/"), html.escape(secret), quote(secret, safe="")}
    longest_first = sorted(spellings, key=len, reverse=True)
    return re.sub("|".join(map(re.escape, longest_first)), MASK, text, flags=re.IGNORECASE)
