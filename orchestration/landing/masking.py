"""Makes payloads storable: canonical JSON without anybody's ids in it, and its hash.

Belongs here: pure text functions. Does not belong here: what a payload means (models) or where it goes (snapshots).

The API writes the caller's affiliate id into links inside items, sometimes once more inside an encoded target link.
Masking works on the JSON text instead of on the tree: one pass, and keys cannot hide anything.
"""

import hashlib
import json
import re
from collections.abc import Iterable

PLACEHOLDER = "{af_id}"
"""Stands where an affiliate id stood; serving puts the real one back."""

SHORTEST_SECRET = 5
"""Shorter literals would hit ordinary words, and no real id is shorter."""

# A value ends at a delimiter, plain or percent-encoded any number of times (%26, %2526, ...).
_LINK_ID = r"""(af(?:fi)?(?:_|%5[Ff])id(?:=|%(?:25)*3[Dd]))
    (?:[^&/"\\\s\#?'<>;,%]|%(?!(?:25)*(?:26|2[Ff]|23|22|20|3[FfBb]|2[Cc]|0[AaDd])))+"""
_USUAL_LINK_ID = re.compile(_LINK_ID, re.VERBOSE)  # more than twice as fast: it looks for its first letters only
_ANY_LINK_ID = re.compile(_LINK_ID, re.IGNORECASE | re.VERBOSE)
_NUL_ESCAPE = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


class Unstorable(ValueError):
    """A payload that Postgres `jsonb` cannot hold.

    Attributes:
        reason: The quarantine reason code.
    """

    def __init__(self, reason: str, detail: str) -> None:
        """Keep the reason code next to the explanation."""
        super().__init__(detail)
        self.reason = reason


def mask_text(text: str, secrets: Iterable[str] = ()) -> str:
    """Replace every affiliate id in links, and our own ids wherever they stand.

    Args:
        text: Any text, typically JSON.
        secrets: Our own ids; removed literally, longest first.

    Returns:
        The text with `{af_id}` in their place. Masking twice changes nothing.
    """
    is_odd = "AF" in text or "Af" in text or "aF" in text or "ID" in text or "Id" in text or "iD" in text
    text = (_ANY_LINK_ID if is_odd else _USUAL_LINK_ID).sub(r"\g<1>" + PLACEHOLDER, text)
    for secret in sorted(set(secrets), key=len, reverse=True):
        if len(secret) >= SHORTEST_SECRET:
            text = text.replace(secret, PLACEHOLDER)
    return text


def canonical_json(value: object) -> str:
    """Write a value as JSON that is equal for equal values and that `jsonb` accepts.

    Args:
        value: Anything `json.loads` can produce.

    Returns:
        JSON with sorted keys and no spaces.

    Raises:
        Unstorable: It holds a NUL character, half a surrogate pair, or a number that is not finite.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except ValueError as error:
        raise Unstorable("bad_number", "a number is not finite") from error
    except RecursionError as error:
        raise Unstorable("bad_json", "nested too deeply") from error
    if "\\u0000" in text and _NUL_ESCAPE.search(text):
        raise Unstorable("nul_character", "a text holds a NUL character")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Unstorable("bad_text", "a text holds half a surrogate pair") from error
    return text


def payload_hash(text: str) -> str:
    """Return the sha256 of a masked canonical payload, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def storable_text(text: str) -> str:
    """Return a text that a Postgres `text` column can hold, changed only where it must be."""
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()
