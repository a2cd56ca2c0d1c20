"""Catalogue sources: the contract they answer to, and one adapter each."""
