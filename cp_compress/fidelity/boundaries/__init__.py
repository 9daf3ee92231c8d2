"""Level D: how far is the decision boundary from an example, and has that changed?"""
