"""``python -m mixcoder`` is the command line."""

from mixcoder.cli import main

if __name__ == "__main__":
    main(prog_name="mixcoder")
