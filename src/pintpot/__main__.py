"""`python -m pintpot`: the same as the program `pintpot`."""

from pintpot.cli import main

if __name__ == "__main__":
    main()
