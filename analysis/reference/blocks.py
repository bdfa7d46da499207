"""Blocks of a Markdown document that are made from the committed runs.

A block stands between `<!-- reference: NAME -->` and `<!-- /reference -->`, each on a line of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ablate.errors import UserError

BLOCK = re.compile(r"^<!-- reference: (\w+) -->\n(.*?)^<!-- /reference -->$", re.MULTILINE | re.DOTALL)
MARK = re.compile(r"<!-- /?reference\b")


def filled(text: str, contents: Mapping[str, str | None], where: str) -> str:
    """A document with the content of each block replaced; a block whose content is None keeps what it has.

    where: the document's name, for errors.

    Raises:
        UserError: the blocks of the document are not those of `contents`, each once, or a mark of one is missing.
    """
    found = [match[1] for match in BLOCK.finditer(text)]
    if sorted(found) != sorted(contents) or len(MARK.findall(text)) != 2 * len(found):
        raise UserError(f"{where} should have the blocks {', '.join(sorted(contents))}, each once, between <!-- reference: NAME --> and "
                        f"<!-- /reference --> on lines of their own; it has {', '.join(found) or 'none'}")  # fmt: skip

    def replaced(match: re.Match[str]) -> str:
        content = contents[match[1]]
        if content is None:
            return match[0]
        gap = "\n" if content.startswith("- ") else "\n\n"  # a table needs an empty line before and after it, a list does not
        return f"<!-- reference: {match[1]} -->{gap}{content}{gap}<!-- /reference -->"

    return BLOCK.sub(replaced, text)
