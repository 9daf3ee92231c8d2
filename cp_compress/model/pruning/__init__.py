"""Which weights are set to zero, and in which pattern?"""
