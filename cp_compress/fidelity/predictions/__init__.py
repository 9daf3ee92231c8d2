"""Level A: do the predictions stay the same, and which classes lose where they do not?"""
