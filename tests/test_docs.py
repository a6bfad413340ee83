"""The documentation leads somewhere: links, and the project's files that it names, exist."""

import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]


def headings(page: Path) -> set[str]:
    """The anchors of a page, as GitHub makes them of headings."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_named_files_exist(page: Path) -> None:
    text = page.read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in headings(file), f"{page.name} links to {target}"
    for name in re.findall(r"`((?:merge|eval|train|launch|tests|ds_configs)/[\w/.-]+\.\w+)`", text):
        assert (PROJECT / name).exists(), f"{page.name} names {name}"


def test_every_page_is_linked_from_the_readme_or_a_page_that_is() -> None:
    linked = set(re.findall(r"docs/([\w]+\.md)", PAGES[0].read_text()))
    for page in PAGES[1:]:
        linked |= set(re.findall(r"\]\(([\w]+\.md)", page.read_text()))
    assert {page.name for page in PAGES[1:]} <= linked
