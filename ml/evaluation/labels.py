"""Names of ids, for people who read a judgement.

Belongs here: what the judge may be told to call a tag or a maker. Does not belong here: features; no model reads this.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ml.datasets import BoolArray, IntArray, ItemTable

MOST_GROUPS = 8


@dataclass(frozen=True)
class Labels:
    """What is known of ids; whatever is missing is shown as its number."""

    makers: Mapping[int, str] = field(default_factory=dict)
    tags: Mapping[int, str] = field(default_factory=dict)
    tag_groups: Mapping[int, str] = field(default_factory=dict)
    """Group of a tag; tags without one are in none."""

    def maker(self, maker_id: int) -> str:
        """Return the name of a maker."""
        return self.makers.get(maker_id, f"maker {maker_id}")

    def tag(self, tag_id: int) -> str:
        """Return the name of a tag."""
        return self.tags.get(tag_id, f"tag {tag_id}")


def item_groups(items: ItemTable, candidates: IntArray, labels: Labels) -> dict[str, BoolArray]:
    """Return the largest tag groups among the candidates, or the most frequent tags where there are no groups.

    Returns:
        Per name a mask over all items; an item may be in several.
    """
    rows = np.repeat(np.arange(len(items)), np.diff(items.tags.offsets))
    known = {tag: labels.tag_groups.get(int(tag)) for tag in np.unique(items.tags.values).tolist()}
    if any(known.values()):
        names = np.array([known[tag] or "" for tag in items.tags.values.tolist()])
    else:
        names = np.array([labels.tag(tag) for tag in items.tags.values.tolist()])
    masks: dict[str, BoolArray] = {}
    for name in sorted(set(names.tolist()) - {""}):
        masks[name] = np.zeros(len(items), dtype=bool)
        masks[name][rows[names == name]] = True
    largest = sorted(masks, key=lambda name: (-int(masks[name][candidates].sum()), name))[:MOST_GROUPS]
    return {name: masks[name] for name in largest}
