"""Level D: how far is it from an example to the next class, and has that changed?"""
