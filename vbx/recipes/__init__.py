"""Recipes: whole experiments as pages of TOML."""
