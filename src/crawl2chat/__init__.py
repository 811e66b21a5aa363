"""What two or more stages of the path share. Recipes import from here, never from one another."""

__version__ = "0.1.0"
