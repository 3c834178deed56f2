"""The command line: one sub-command a stage."""


def main() -> None:
    """Run the command line."""
