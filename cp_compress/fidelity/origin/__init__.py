"""Which layers, or which stages of the data, does the damage come from?"""
