"""``python -m mmbert`` and ``torchrun -m mmbert``."""

from mmbert.cli.main import main

if __name__ == "__main__":
    main()
