"""Which point of a search space is tried next?"""
