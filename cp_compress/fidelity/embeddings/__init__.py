"""Level B: does the geometry of the features stay the same?"""
