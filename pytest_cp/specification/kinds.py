"""What a table of a specification can name a model by."""

OWN_MODELS = ("model", "file", "command", "served", "observation")
"""The keys of models of their own; a scheme makes one of the reference."""
