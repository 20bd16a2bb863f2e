"""Every link between the project's own pages leads somewhere."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
# Made when the site is built; see docs/reference.py.
REFERENCE = ("node", "commands", "recipe", "adapters")
GENERATED = {ROOT / "docs" / "reference" / f"{name}.md" for name in REFERENCE}
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """Give the anchors of a page's headings, as GitHub and MkDocs make them."""
    headings = re.findall(r"^#+ +(.*)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve(page):
    for link in LINK.findall(page.read_text()):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists() or target in GENERATED, f"{page.name} links to {link}"
        if anchor and target.suffix == ".md" and target not in GENERATED:
            assert anchor in anchors(target), f"{page.name} links to {link}: no such heading there"


def test_pages_are_found():
    assert ROOT / "README.md" in PAGES
    assert len(PAGES) > 10
