"What Quarto runs before it renders the project's root, which it should not: the pages are staged first."
import sys

sys.exit("The pages are staged first: run `vcae site`, which calls Quarto where it is installed")
