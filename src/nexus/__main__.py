"""`python -m nexus`, which torchrun starts."""

from nexus.cli import main

if __name__ == "__main__":
    main()
