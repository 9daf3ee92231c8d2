"""What happens to one check, from the call of an assertion to its record?"""
