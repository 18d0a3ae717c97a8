from pathlib import Path

from models.filters.reference import page


def test_the_page_in_the_docs_is_made_from_the_tables():
    docs = Path(__file__).parents[3] / "docs" / "lists.md"
    assert docs.read_text() == page(), "run: python -m models.filters.reference > docs/lists.md"
