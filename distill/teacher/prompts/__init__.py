"""Prompts and how replies to them are parsed."""
