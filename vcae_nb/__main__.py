"""`python -m vcae_nb` is the `vcae` command."""
from vcae_nb.book.cli import main

if __name__ == "__main__":
    main()
