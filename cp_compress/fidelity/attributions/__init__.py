"""Level C: does the model still look at the same parts of the input?"""
