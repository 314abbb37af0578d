"""Which images may be pulled: policy.toml.

    default = "accept"                          # or "reject"

    [repositories."registry.example/team"]
    rule = "signed-by"                          # or "accept", "reject"
    keys = ["/etc/rootless/team.pub"]           # one of them must have signed

The longest prefix of the name as it was typed counts, alone. $XDG_CONFIG_HOME/rootless/policy.toml
counts alone where it exists, else /etc/rootless/policy.toml. Without either everything is accepted.
"""

from __future__ import annotations

import os

from rootless import config
from rootless.config import Table
from rootless.errors import ImageError
from rootless.image.reference import Reference, familiar

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rootless.image.registry import Registry
    from rootless.paths import Paths

RULES = ("accept", "reject", "signed-by")


class Policy:
    """`table`: the file, None where there is none. Raises HostError for what it may not say."""

    def __init__(self, table: Table | None) -> None:
        self._table = table
        self._rules: dict[str, Table] = {}
        if table is None:
            return
        table.only("default", "repositories")
        if table.text("default", "accept") not in RULES[:2]:
            raise table.wrong("default", "unknown value", "allowed: accept, reject")
        rules = table.table("repositories")
        for prefix in rules.values:
            rule = rules.table(prefix)
            rule.only("rule", "keys")
            if rule.text("rule") not in RULES:
                raise rule.wrong("rule", "unknown value", "allowed: " + ", ".join(RULES))
            if bool(rule.texts("keys")) != (rule.text("rule") == "signed-by"):
                raise rule.wrong("keys", "goes with rule = \"signed-by\", and only with it",
                                 'keys = ["/path/to/key.pub"]')
            self._rules[prefix] = rule

    def _of(self, reference: Reference) -> Table | None:
        name = reference.repository
        best = max((p for p in self._rules if name == p or name.startswith(p + "/")), key=len,
                   default="")
        return self._rules.get(best)

    def _word(self, reference: Reference) -> str:
        rule = self._of(reference)
        if rule is not None:
            return rule.text("rule")
        return "accept" if self._table is None else self._table.text("default", "accept")

    def allow(self, reference: Reference) -> None:
        """Before anybody is asked. Raises ImageError when it is rejected whatever it is."""
        if self._word(reference) == "reject":
            assert self._table is not None
            raise ImageError(f"{familiar(reference.full)} is refused: the policy rejects it",
                             hint=f"{self._table.file} says so")

    def demands(self, reference: Reference) -> bool:
        """Must it have been signed?"""
        return self._word(reference) == "signed-by"

    def check(self, registry: Registry, reference: Reference, digests: list[str]) -> None:
        """Before it gets a name. Raises ImageError when it has not been signed as it should."""
        rule = self._of(reference)
        if rule is None or rule.text("rule") != "signed-by":
            return
        from rootless.image import signature

        keys = [signature.public_key(os.path.expanduser(path)) for path in rule.texts("keys")]
        signature.verify(registry, reference, digests, keys)


def of_this_user(paths: Paths, system: str = config.SYSTEM) -> Policy:
    for directory in (paths.config, system):
        table = config.read(f"{directory}/policy.toml")
        if table is not None:
            return Policy(table)
    return Policy(None)
