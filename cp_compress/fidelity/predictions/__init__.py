"""Level A: do the answers stay the same, and which classes pay where they do not?"""
