"""What several test files share and no fixture can give: lists to parametrise over."""

from pathlib import Path

CONFIGS = Path(__file__).parent.parent / "configs"


def leaves(group: str) -> list[Path]:
    """The YAML leaves of a config group."""
    return sorted((CONFIGS / group).glob("*.yaml"))
