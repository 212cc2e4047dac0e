"""`python -m chutes_opencode` is the command `chutes-opencode`."""

from chutes_opencode.cli.app import main

if __name__ == "__main__":
    main()
