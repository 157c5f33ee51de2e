"""The command `nexus`, and `python -m nexus`, which torchrun starts."""

from nexus.stopping import PROCESS


def main() -> None:
    """Take the signals before anything else is imported: that may take seconds."""
    PROCESS.listen()
    from nexus import cli

    cli.main()


if __name__ == "__main__":
    main()
