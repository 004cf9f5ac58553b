"""`python -m jaxclear` is the command line."""

from jaxclear.cli import main

if __name__ == "__main__":
    main()
