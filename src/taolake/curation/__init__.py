"""Pure functions from logged bytes to canonical prompts."""
