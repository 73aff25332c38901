"""The Markdown of notebooks, for slides: its blocks, its sentences, and HTML that names no address.

markdown-it and its plugin for mathematics come with jupytext, which reads the sources with them.
"""

import re
from dataclasses import dataclass
from html import escape

from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin

KINDS = {  # of markdown-it's tokens -> ours
    "paragraph_open": "text",
    "bullet_list_open": "list",
    "ordered_list_open": "list",
    "table_open": "table",
    "math_block": "formula",
    "fence": "code",
    "blockquote_open": "text",
}
# Where a sentence ends: before a blank and something that can begin one. "e.g." and the like end none.
END = re.compile(r"(?<=[.?!:])(?<!e\.g\.)(?<!i\.e\.)(?<!et al\.)(?<!vs\.)([*_)]*)\s+(?=[*_(`\[A-Z0-9\x00ΩΔ])")
WHOLE = re.compile(r"`[^`]*`|\$[^$]+\$|\[[^\]]*\]\([^)]*\)")  # spans that are never cut


def _markdown() -> MarkdownIt:
    md = MarkdownIt("commonmark", {"html": False}).enable("table")
    md.use(dollarmath_plugin, allow_labels=False, allow_space=False, double_inline=True)
    # A link on a slide leads out of its folder, so only its words stay.
    for rule in ("link_open", "link_close"):
        md.add_render_rule(rule, lambda *_: "")
    md.add_render_rule("image", lambda self, tokens, i, *_: escape(tokens[i].content))
    md.add_render_rule("math_inline", lambda self, tokens, i, *_: escape(f"\\({tokens[i].content}\\)"))
    for rule in ("math_block", "math_inline_double"):
        md.add_render_rule(rule, lambda self, tokens, i, *_: escape(f"\\[{tokens[i].content}\\]"))
    return md


MARKDOWN = _markdown()
MARKDOWN_OF_BLOCKS = MarkdownIt("commonmark").enable("table").use(dollarmath_plugin, allow_labels=False)


@dataclass
class Block:
    """A paragraph ("text"), "list", "table", "formula", "code", or "heading" with its level."""

    kind: str
    text: str
    level: int = 0


def blocks(text: str) -> list[Block]:
    """The blocks of a Markdown text, in order. Tags of HTML, such as `<details>`, are left out."""
    found, lines = [], text.splitlines()
    for token in MARKDOWN_OF_BLOCKS.parse(text):
        if token.level or not token.map:
            continue
        if token.type == "heading_open":
            found.append(Block("heading", lines[token.map[0]].lstrip("# ").strip(), int(token.tag[1])))
        elif token.type in KINDS:
            found.append(Block(KINDS[token.type], "\n".join(lines[slice(*token.map)]).strip()))
    return found


def html(text: str) -> str:
    return MARKDOWN.render(text)


def inline(text: str) -> str:
    return MARKDOWN.renderInline(" ".join(text.split()))


def sentences(paragraph: str) -> list[str]:
    """The sentences of a paragraph. What stands after a colon counts as one, unless it goes on in small letters."""
    kept = []

    def hide(match):
        kept.append(match[0])
        return f"\0{len(kept) - 1}\0"

    parts = END.sub(r"\1\n", WHOLE.sub(hide, " ".join(paragraph.split()))).split("\n")
    parts = [re.sub("\0(\\d+)\0", lambda m: kept[int(m[1])], part) for part in parts if part.strip()]
    for i, part in enumerate(parts):  # emphasis that begins in one sentence and ends in another stands in neither
        if part.count("**") % 2:
            parts[i] = part.replace("**", "")
    return parts


def items(block: str) -> list[str]:
    """The items of a list, each as a text without its mark."""
    return [
        re.sub(r"\n\s*", " ", item).strip()
        for item in re.split(r"^(?:[-*]|\d+[.)])\s+", block, flags=re.MULTILINE)
        if item.strip()
    ]


def plain(text: str) -> str:
    """A text without marks and targets of links, about as long as it is shown."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"\$+([^$]*)\$+", lambda m: re.sub(r"\\[a-zA-Z]+|[{}]", "", m[1]), text)
    return re.sub(r"\*\*|[`*]", "", text)
