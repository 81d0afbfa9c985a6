"""The loader of foreign YAML: safe types, and no aliases that expand a small file without limit."""

from typing import Any

import yaml


class AliasError(yaml.composer.ComposerError):
    """An alias of a list or mapping."""


class Loader(yaml.SafeLoader):
    """A safe YAML loader that accepts aliases of texts and numbers only, not of lists and mappings."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Composes the next node; rejects an alias of a list or mapping."""
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            if isinstance(self.anchors.get(event.anchor), yaml.CollectionNode):
                raise AliasError(
                    None,
                    None,
                    f"the alias *{event.anchor} refers to a list or mapping; write it out",
                    event.start_mark,
                )
        return super().compose_node(parent, index)
