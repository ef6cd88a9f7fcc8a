"""`python -m lightning_avb` is `lightning-avb`."""

from .cli import main

main()
