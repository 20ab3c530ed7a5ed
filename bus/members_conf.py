"""The part of the server's configuration that says who may connect, and what each may do."""

import json
from collections.abc import Iterable

from bus.permissions import Permissions

_ANSWER_WITHIN = "10m"
"""A node that is asked for its newest tensor makes it first: of a large model on a slow disk that takes minutes."""


def render(users: Iterable[tuple[str, str, Permissions]]) -> str:
    """An `authorization` block for (comment, public key, permissions) of each user.

    JSON's strings and lists are this format's, too. A greeting may take 10 s, as in nats.conf.
    """
    lines = ["# Made by Shoal from its members: changes here are lost.", "authorization {", "  timeout: 10", "  users: ["]
    for comment, key, may in users:
        lines.append(f"    {{ # {comment}")
        lines.append(f"      nkey: {key}")
        lines.append("      permissions {")
        lines.append(f"        publish: {_rule(may.publish, may.not_publish)}")
        lines.append(f"        subscribe: {_rule(may.subscribe, may.not_subscribe)}")
        if may.answers:
            lines.append(f'        allow_responses: {{ max: 1, expires: "{_ANSWER_WITHIN}" }}')
        lines += ["      }", "    }"]
    return "\n".join([*lines, "  ]", "}"]) + "\n"


def _rule(allow: tuple[str, ...], deny: tuple[str, ...]) -> str:
    denied = f", deny: {json.dumps(deny)}" if deny else ""
    return f"{{ allow: {json.dumps(allow)}{denied} }}"
