"""Links inside the built site: `python tools/check_links.py docs/build/site` names each that leads nowhere.

Looks at every href and src of every page: whether the file is there, and, after a `#`, the id in it. Addresses of other
hosts are counted, and not visited.
"""

from __future__ import annotations

import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """Links and ids of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value is None:
                continue
            if name in ("href", "src", "data"):
                self.links.append(value)
            elif name == "id" or (name == "name" and tag == "a"):
                self.ids.add(value)


def check(site: Path) -> tuple[int, int, int, list[str]]:
    """Pages, links inside the site, links to other hosts, and what is wrong."""
    parsed = cache(Page)
    pages = sorted(p for p in site.rglob("*.html") if "_static" not in p.parts)  # templates of the theme are there
    inside = outside = 0
    wrong = []
    for path in pages:
        for link in parsed(path).links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                outside += parts.scheme != "data"
                continue
            inside += 1
            base = site if parts.path.startswith("/") else path.parent
            target = (base / unquote(parts.path).lstrip("/")).resolve() if parts.path else path
            if target.is_dir():
                target /= "index.html"
            if not target.exists():
                wrong.append(f"{path.relative_to(site)}: {link}: there is no such file")
            elif parts.fragment and target.suffix == ".html" and unquote(parts.fragment) not in parsed(target).ids:
                wrong.append(f"{path.relative_to(site)}: {link}: there is no such place in the page")
    return len(pages), inside, outside, wrong


def main() -> int:
    pages, inside, outside, wrong = check(Path(sys.argv[1]).resolve())
    print(*sorted(set(wrong)), sep="\n", end="\n" if wrong else "")
    print(f"{pages} pages, {inside} links inside the site, {len(wrong)} of them dead; {outside} to other hosts")
    return 1 if wrong or not pages else 0


if __name__ == "__main__":
    sys.exit(main())
