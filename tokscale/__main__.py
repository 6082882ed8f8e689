"""`python -m tokscale` is the `tokscale` command."""

from .cli import main

if __name__ == "__main__":
    main()
