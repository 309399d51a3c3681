"""`python -m voltledger` and the `voltledger` command."""

from voltledger.cli.app import main

if __name__ == "__main__":
    main()
