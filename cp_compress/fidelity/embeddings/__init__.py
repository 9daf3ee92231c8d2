"""Level B: does the space of features keep its shape?"""
