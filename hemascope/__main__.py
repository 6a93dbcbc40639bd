"""Run the command `hemascope` as `python -m hemascope`."""

from edge.cli.main import main

if __name__ == "__main__":
    main()
