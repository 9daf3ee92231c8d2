"""A pytest plugin for specs of behaviour that compression must preserve."""
