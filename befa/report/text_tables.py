"""Tables of text as Markdown."""

from collections.abc import Iterable, Sequence


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]], *, left: int) -> list[str]:
    """Lines of a table; its first `left` columns are set to the left, the others, numbers, to the right."""
    rule = ["---" if place < left else "---:" for place in range(len(header))]
    return [f"| {' | '.join(line)} |" for line in (header, rule, *rows)]
