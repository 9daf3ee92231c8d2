"""Which examples are enough?"""
