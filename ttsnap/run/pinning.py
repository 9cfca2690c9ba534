"""Writing commits into a config that names hub ids without them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from ttsnap.config import COMMIT, HUB_ID, is_hub_id
from ttsnap.errors import UserError
from ttsnap.hub import newest_commit

AT = re.compile(rf"({HUB_ID})@([\w.-]+)(:.+)?")


@dataclass(frozen=True)
class Gap:
    """A hub id without its commit.

    Attributes:
        place: key path of what names it.
        repository: ORG/NAME.
        revision: branch or tag that is there in place of a commit, or None.
        start: where in the text of the config the commit is to be written.
        stop: end of what it replaces there.
        before: what is to be written before the commit.
        after: what is to be written after it.
    """

    place: str
    repository: str
    revision: str | None
    start: int
    stop: int
    before: str = ""
    after: str = ""


def pin(file: Path) -> Iterator[str]:
    """Write the newest commits of its hub ids into a YAML config; one line for each.

    A branch or a tag becomes the commit that it names now. All else in the file stays as it is,
    comments too.

    Raises:
        UserError: the file cannot be read, or no commit of a repository is known.
    """
    try:
        text = file.read_text(encoding="utf-8")
        root = yaml.compose(text)
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{file}: not YAML: {' '.join(str(error).split())}") from None
    lines = []
    for gap in sorted(gaps(root, text), key=lambda gap: gap.start, reverse=True):
        commit, where = newest_commit(gap.repository, gap.revision)
        text = text[: gap.start] + gap.before + commit + gap.after + text[gap.stop :]
        lines.append(f"{gap.place}: {gap.repository}@{commit}, the newest that the {where} knows")
    file.write_text(text, encoding="utf-8")
    yield from reversed(lines)


def gaps(node: yaml.Node | None, text: str, place: str = "") -> Iterator[Gap]:
    """The hub ids without a commit in a node of a config, and where they stand in its text."""
    match node:
        case yaml.SequenceNode():
            for index, item in enumerate(node.value):
                yield from gaps(item, text, f"{place}.{index}")
        case yaml.MappingNode():
            yield from _section_gaps(node, text, place)
            for key, value in node.value:
                yield from gaps(value, text, f"{place}.{key.value}".lstrip("."))
        case yaml.ScalarNode():
            match = AT.fullmatch(node.value)
            span = node.start_mark.index, node.end_mark.index
            if match and not re.fullmatch(COMMIT, match[2]):
                yield Gap(place, match[1], match[2], *span, f"{match[1]}@", match[3] or "")
            elif place == "model.components" and is_hub_id(node.value):
                yield Gap(place, node.value, None, *span, f"{node.value}@")


def _section_gaps(node: yaml.MappingNode, text: str, place: str) -> Iterator[Gap]:
    """The gap of a section with a path that lacks its revision."""
    keys = {key.value: (key, value) for key, value in node.value}
    if "path" not in keys or not is_hub_id(str(keys["path"][1].value)):
        return
    key, path = keys["path"]
    if "revision" in keys:
        revision = keys["revision"][1]
        if not re.fullmatch(COMMIT, str(revision.value)):
            named = None if revision.tag == "tag:yaml.org,2002:null" else revision.value
            # A null may be written as nothing.
            space = " " if revision.start_mark.index == revision.end_mark.index else ""
            span = revision.start_mark.index, revision.end_mark.index
            yield Gap(place, path.value, named, *span, space)
        return
    end, apart = path.end_mark.index, ", "
    if not node.flow_style:  # below the line, with the comment at its end
        end = len(text) if (stop := text.find("\n", end)) < 0 else stop
        apart = "\n" + " " * key.start_mark.column
    yield Gap(place, path.value, None, end, end, f"{apart}revision: ")
